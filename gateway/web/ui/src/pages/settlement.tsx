// Settlement cycles, when the next one is, and settling now.
import type { JSX } from "preact";
import { useState } from "preact/hooks";
import { withQuery } from "../api";
import type { CycleRow, Overview, Page, Tiles } from "../api_types";
import { useApi } from "../fetching";
import { count } from "../format";
import { useLive } from "../live";
import { PageFrame } from "../parts/page";
import { Empty, Shown } from "../parts/states";
import { Pager, Table } from "../parts/table";
import { Money, Pill, When } from "../parts/text";
import { usePlace } from "../router";
import { useMay } from "../session";
import { NextSettlement } from "./next_settlement";
import { Tile } from "./overview_tile";
import { PreviewDialog } from "./preview";

export function Settlement(): JSX.Element {
  const { query } = usePlace();
  const cursor = query.get("cursor");
  const cycles = useApi<Page<CycleRow>>(withQuery("/cycles", { limit: "25", cursor }));
  const overview = useApi<Overview>("/overview");
  const [latest, setLatest] = useState<Tiles | null>(null);
  const [asking, setAsking] = useState(false);
  const mayOperate = useMay("operate");
  useLive("overview", setLatest);
  useLive("cycle", () => cycles.reload());
  const tiles = latest ?? overview.data?.tiles ?? null;
  return (
    <PageFrame
      title="Settlement"
      lead="Nets what parties owe and earn, claims the difference from channels, and pays those who earn."
      actions={
        mayOperate && (
          <button type="button" class="primary" onClick={() => setAsking(true)}>
            Settle now…
          </button>
        )
      }
    >
      {tiles && (
        <ul class="tiles" aria-label="Where settlement stands">
          <NextSettlement tiles={tiles} />
          <Tile to="/devices?sort=-unclaimed" name="Unsettled exposure" value={<Money of={tiles.exposure} unit />}>
            charged and not claimed yet
          </Tile>
          <Tile to="/ledger" name="Payable to earners" value={<Money of={tiles.payable} />}>
            due, and not paid yet
          </Tile>
        </ul>
      )}
      <Shown of={cycles} lines={8}>
        {(page) =>
          page.items.length === 0 ? (
            <Empty title="No settlement yet">The first one comes on schedule, or with “Settle now”.</Empty>
          ) : (
            <div class="card">
              <Cycles rows={page.items} />
              <Pager page={page} what="cycles" />
            </div>
          )
        }
      </Shown>
      {asking && (
        <PreviewDialog
          onClose={() => setAsking(false)}
          onDone={() => {
            setAsking(false);
            cycles.reload();
          }}
        />
      )}
    </PageFrame>
  );
}

function Cycles({ rows }: { rows: CycleRow[] }): JSX.Element {
  return (
    <Table
      caption="Settlement cycles, newest first"
      rows={rows}
      rowKey={(row) => row.number}
      columns={[
        { name: "Cycle", head: true, cell: (row) => <a href={`/settlement/${row.number}`}>Cycle {row.number}</a> },
        { name: "State", cell: (row) => <Pill state={row.state} /> },
        { name: "When", cell: (row) => <When at={row.at} /> },
        { name: "Claimed", right: true, cell: (row) => <Money of={row.claimed} /> },
        { name: "Netted", right: true, from: 1, cell: (row) => <Money of={row.offset} /> },
        { name: "Settled", right: true, from: 2, cell: (row) => <Money of={row.settled} /> },
        { name: "Paid out", right: true, from: 1, cell: (row) => <Money of={row.paid} /> },
        { name: "Rows", right: true, from: 2, cell: (row) => count(row.rows) },
        { name: "Gas", right: true, from: 2, cell: (row) => count(row.gas_used) },
      ]}
    />
  );
}
