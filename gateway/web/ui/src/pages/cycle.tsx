// One settlement cycle: what it moved, by which transactions, on which lanes.
import type { JSX } from "preact";
import type { PageProps } from "../app";
import { withQuery } from "../api";
import type { CycleDetail, CycleRow, Page, StatementRow } from "../api_types";
import { useApi } from "../fetching";
import { coinText, count, measure, plural, speedUp } from "../format";
import { useLive } from "../live";
import { Bars } from "../parts/bars";
import { Icon } from "../parts/icons";
import { PageFrame, Section } from "../parts/page";
import { Empty, Shown } from "../parts/states";
import { Pager, Table } from "../parts/table";
import { Fact, Facts, HexId, Money, Pill, When } from "../parts/text";
import { usePlace } from "../router";
import { BlockTable } from "./block_table";

export function Cycle({ rest: number }: PageProps): JSX.Element {
  const cycle = useApi<CycleDetail>(`/cycles/${encodeURIComponent(number)}`);
  useLive("cycle", (row: CycleRow) => String(row.number) === number && cycle.reload());
  return (
    <PageFrame
      title={`Cycle ${number}`}
      above={
        <p class="crumbs">
          <a href="/settlement">Settlement</a>
        </p>
      }
    >
      <Shown of={cycle} lines={10}>
        {(data) => (
          <>
            <Moved detail={data} />
            {!data.complete && (
              <p class="notice">Only the sums of this cycle are kept: its part of the journal is too far back to be read.</p>
            )}
            {data.complete && <Lanes detail={data} />}
            {data.complete && <Plan detail={data} />}
            {data.set_aside.length > 0 && <Aside detail={data} />}
            {data.complete && <Transactions detail={data} />}
            {data.blocks.length > 0 && (
              <Section title="Blocks" note="of the embedded layer that hold this cycle">
                <BlockTable blocks={[...data.blocks].reverse()} />
              </Section>
            )}
            <Statements number={number} />
          </>
        )}
      </Shown>
    </PageFrame>
  );
}

function Moved({ detail }: { detail: CycleDetail }): JSX.Element {
  const { row } = detail;
  return (
    <div class="card">
      <Facts wide>
        <Fact name="State">
          <Pill state={row.state} />
        </Fact>
        <Fact name={row.state === "running" ? "Since" : "Ended"}>
          <When at={row.at} />
        </Fact>
        <Fact name="Claimed">
          <Money of={row.claimed} unit />
        </Fact>
        <Fact name="Netted">
          <Money of={row.offset} />
        </Fact>
        <Fact name="Settled to lanes">
          <Money of={row.settled} />
        </Fact>
        <Fact name="Paid out">
          <Money of={row.paid} />
        </Fact>
        <Fact name="Rows">{count(row.rows)}</Fact>
        <Fact name="Gas">{count(row.gas_used)}</Fact>
        {detail.speed_up !== null && <Fact name="Parallel speed-up">{speedUp(detail.speed_up)}</Fact>}
      </Facts>
    </div>
  );
}

function pace(ratio: number | null): string {
  if (ratio === null) return "keys that send side by side";
  if (ratio < 1) return "keys that send side by side; these blocks were too small to gain by it";
  return `executed side by side, ${measure(ratio)} times as fast as one after the other`;
}

function Lanes({ detail }: { detail: CycleDetail }): JSX.Element {
  return (
    <Section
      title="Lanes"
      note={pace(detail.speed_up)}
    >
      {detail.lanes.length === 0 ? (
        <Empty title="Nothing was sent in this cycle" />
      ) : (
        <Table
          caption="What each sending key did"
          rows={detail.lanes}
          rowKey={(lane) => lane.key}
          columns={[
            { name: "Key", head: true, cell: (lane) => lane.key },
            { name: "Claims", right: true, cell: (lane) => count(lane.claims) },
            { name: "Amount", right: true, cell: (lane) => <Money of={lane.amount} /> },
            { name: "Transactions", right: true, from: 1, cell: (lane) => count(lane.transactions) },
            { name: "Gas", right: true, from: 1, cell: (lane) => count(lane.gas_used) },
            { name: "Share of the gas", from: 1, cell: (lane) => <Bars of={lane.gas_used} all={most(detail)} /> },
          ]}
        />
      )}
    </Section>
  );
}

function most(detail: CycleDetail): number {
  return Math.max(1, ...detail.lanes.map((lane) => lane.gas_used));
}

function Plan({ detail }: { detail: CycleDetail }): JSX.Element {
  const more = detail.claims_total - detail.claims.length;
  return (
    <Section title="Plan" note={`${plural(detail.claims_total, "claim")}, ${plural(detail.payouts.length, "payout")}, ${plural(detail.offsets, "party", "parties")} netted`}>
      <div class="columns">
        {detail.claims.length > 0 && (
          <div class="scrolling">
            <Table
              caption={more > 0 ? `Claims, the first ${count(detail.claims.length)}` : "Claims, cumulative"}
              showCaption
              rows={detail.claims}
              rowKey={(row) => row.channel_id}
              columns={[
                { name: "Device", head: true, cell: (row) => (row.device === "" ? "–" : <a href={`/devices/${encodeURIComponent(row.device)}`}>{row.device}</a>) },
                { name: "Channel", from: 1, cell: (row) => <HexId of={row.channel_id} what="the channel's id" /> },
                { name: "Lane", right: true, cell: (row) => row.lane },
                { name: "Claimed in all", right: true, cell: (row) => <Money of={row.total_claimed} /> },
              ]}
            />
          </div>
        )}
        {detail.payouts.length > 0 && (
          <div class="scrolling">
            <Table
              caption="Payouts, cumulative"
              showCaption
              rows={detail.payouts}
              rowKey={(row) => row.payee}
              columns={[
                { name: "Payee", head: true, cell: (row) => <HexId of={row.payee} what="the payee's address" /> },
                { name: "Paid in all", right: true, cell: (row) => <Money of={row.cumulative} /> },
              ]}
            />
          </div>
        )}
      </div>
      {detail.claims.length + detail.payouts.length === 0 && <Empty title="Nothing was planned to be sent" />}
    </Section>
  );
}

function Aside({ detail }: { detail: CycleDetail }): JSX.Element {
  return (
    <Section title="Set aside" note="rows that the chain refused; tried again later">
      <Table
        caption="Rows that were set aside"
        rows={detail.set_aside}
        rowKey={(row) => `${row.name}-${row.subject}`}
        columns={[
          { name: "Row", head: true, cell: (row) => row.name },
          { name: "Of", cell: (row) => <HexId of={row.subject} what="what it is about" /> },
          { name: "The chain’s reason", cell: (row) => row.reason },
          { name: "Times", right: true, cell: (row) => count(row.times) },
          { name: "Again in cycle", right: true, cell: (row) => row.retry_cycle },
        ]}
      />
    </Section>
  );
}

function Transactions({ detail }: { detail: CycleDetail }): JSX.Element {
  return (
    <Section title="Transactions">
      {detail.transactions.length === 0 ? (
        <Empty title="None">All of it was netted, or there was nothing to send.</Empty>
      ) : (
        <Table
          caption="Transactions of this cycle"
          rows={detail.transactions}
          rowKey={(row) => row.hash}
          columns={[
            { name: "Transaction", head: true, cell: (row) => <HexId of={row.hash} what="the transaction's hash" /> },
            { name: "For", cell: (row) => row.purpose },
            { name: "State", cell: (row) => <Pill state={row.state} /> },
            { name: "Key", from: 1, cell: (row) => `${row.key}, nonce ${row.nonce}` },
            { name: "Block", right: true, from: 1, cell: (row) => (row.block === null ? "–" : count(row.block)) },
            { name: "Gas", right: true, from: 1, cell: (row) => (row.gas_used === null ? "–" : count(row.gas_used)) },
            { name: "Fee in coins", right: true, from: 2, cell: (row) => (row.fee === null ? "–" : coinText(row.fee)) },
          ]}
        />
      )}
    </Section>
  );
}

function Statements({ number }: { number: string }): JSX.Element {
  const cursor = usePlace().query.get("statements");
  const path = withQuery(`/cycles/${encodeURIComponent(number)}/statements`, { limit: "12", cursor });
  const statements = useApi<Page<StatementRow>>(path);
  useLive("cycle", () => statements.reload());
  return (
    <Section title="Statements" note="signed by the gateway; metergate verify proves them without it">
      <Shown of={statements}>
        {(page) =>
          page.items.length === 0 ? (
            <Empty title="None issued for this cycle">They are issued once a cycle has ended, and kept for a while.</Empty>
          ) : (
            <>
              <ul class="downloads">
                {page.items.map((row) => (
                  <li key={row.party}>
                    <a href={`/api/v1/statements/${row.party}?cycle=${row.cycle}`} download>
                      <Icon name="download" />
                      <code>
                        {row.party.slice(0, 8)}…{row.party.slice(-6)}
                      </code>
                      <span class="unseen">: download the statement</span>
                    </a>
                  </li>
                ))}
              </ul>
              <Pager page={page} what="statements" name="statements" />
            </>
          )
        }
      </Shown>
    </Section>
  );
}
