// One device: how it stands, what is wrong with it, its money and its messages.
import type { JSX } from "preact";
import { useState } from "preact/hooks";
import type { PageProps } from "../app";
import type { DevicePage, DeviceRow } from "../api_types";
import { useApi } from "../fetching";
import { count, plural } from "../format";
import { useLive } from "../live";
import { PageFrame, Section } from "../parts/page";
import { Empty, Shown } from "../parts/states";
import { Ago, Fact, Facts, Fill, HexId, Money, Pill } from "../parts/text";
import { useMay } from "../session";
import { DeviceCharts } from "./device_charts";
import { CloseDialog } from "./device_close";
import { EditDialog } from "./device_edit";
import { AccountCard, ChannelCard } from "./device_channel";
import { DeviceReadings, DeviceRefusals } from "./device_messages";
import { Cause } from "./reason";

const REFRESH_MS = 5_000;

export function Device({ rest: device }: PageProps): JSX.Element {
  const path = `/devices/${encodeURIComponent(device)}`;
  const page = useApi<DevicePage>(path, REFRESH_MS);
  const mayOperate = useMay("operate");
  const [asking, setAsking] = useState<"" | "close" | "edit">("");
  useLive("device", (news) => {
    if (news.device === device || news.devices?.includes(device)) page.reload();
  });
  const closable = (page.data?.channels ?? []).some((channel) => channel.phase === "open" || channel.phase === "withdrawing");
  const done = (): void => {
    setAsking("");
    page.reload();
  };
  return (
    <PageFrame
      title={device}
      above={
        <p class="crumbs">
          <a href="/devices">Devices</a>
        </p>
      }
      lead={page.data?.row.note}
      actions={
        mayOperate &&
        page.data && (
          <>
            <button type="button" onClick={() => setAsking("edit")}>
              {page.data.row.enrolled ? "Edit…" : "Enrol…"}
            </button>
            <button type="button" class="danger" disabled={!closable} onClick={() => setAsking("close")}>
              Close channels…
            </button>
          </>
        )
      }
    >
      <Shown of={page} lines={10}>
        {(data) => (
          <>
            <Wrong row={data.row} />
            <Standing data={data} />
            <DeviceCharts device={device} services={data.row.services} units={unitsOf(data)} />
            <Holdings data={data} />
            <div class="columns">
              <DeviceRefusals device={device} />
              <DeviceReadings device={device} units={unitsOf(data)} />
            </div>
            {asking === "close" && <CloseDialog device={device} channels={data.channels} onClose={() => setAsking("")} onDone={done} />}
            {asking === "edit" && <EditDialog page={data} onClose={() => setAsking("")} onDone={done} />}
          </>
        )}
      </Shown>
    </PageFrame>
  );
}

function unitsOf(data: DevicePage): Record<string, string> {
  return Object.fromEntries([...data.channels, ...data.accounts].map((each) => [each.service, each.unit]));
}

const ADVICE: Record<string, string> = {
  no_deposit: "It has no deposit that is usable: its readings cannot be paid. Its payer has to sign a deposit, which the device sends with its next open.",
  deposit_low: "Its deposit is nearly used up. Let its payer top up with another open, before readings are refused.",
  withdrawing: "Its payer takes money back. What is owed is claimed before that is possible; nothing needs to be done.",
  owes: "Its balance did not cover what it owes. Let its payer deposit again; the debt stays and can still be claimed.",
  closed: "All its channels are closed. It may open a new one at any time.",
};

/** What is wrong with it, why, and what to do: in the operator's words. */
function Wrong({ row }: { row: DeviceRow }): JSX.Element | null {
  if (row.problem === "refused" && row.last_refusal) {
    return (
      <div class="notice warn" id="refused">
        <div>
          <p>
            <strong>Refused: </strong>
            <code>{row.last_refusal.reason}</code>, <Ago at={row.last_refusal.at} />
            {row.last_refusal.times > 1 && `, ${plural(row.last_refusal.times, "time")} in a row`}.
          </p>
          <Cause reason={row.last_refusal.reason} />
        </div>
      </div>
    );
  }
  const advice = ADVICE[row.problem];
  if (advice === undefined) return null;
  return (
    <div class="notice warn">
      <p>{advice}</p>
    </div>
  );
}

function Standing({ data }: { data: DevicePage }): JSX.Element {
  const { row } = data;
  return (
    <div class="card">
      <Facts wide>
        <Fact name="Status">
          <Pill state={row.status} /> {row.problem !== "" && <Pill state={row.problem} />}
        </Fact>
        <Fact name="Last receipt">
          <Ago at={row.last_receipt_at} none="none yet" />
        </Fact>
        <Fact name="Charged">
          <Money of={row.charged} unit />
        </Fact>
        {row.accounts > 0 && (
          <Fact name="Earned">
            <Money of={row.earned} />
          </Fact>
        )}
        <Fact name="Rate per hour">
          <Money of={row.rate} />
        </Fact>
        <Fact name="Unclaimed">
          <Money of={row.unclaimed} />
        </Fact>
        <Fact name="Held in deposits">
          <Money of={row.balance} />
        </Fact>
        <Fact name="Deposit used">
          <Fill share={row.fill} label="Deposit used" />
        </Fact>
        <Fact name="Register">{count(row.register)}</Fact>
        <Fact name="Enrolled">{row.enrolled ? "yes" : "no"}</Fact>
        {data.payers.length > 0 && (
          <Fact name="May pay">
            {data.payers.map((payer) => (
              <HexId key={payer} of={payer} what="the payer's address" />
            ))}
          </Fact>
        )}
        {data.enrolled_accounts.length > 0 && (
          <Fact name="May earn">
            {data.enrolled_accounts.map((account) => (
              <HexId key={account} of={account} what="the account's id" />
            ))}
          </Fact>
        )}
      </Facts>
    </div>
  );
}

function Holdings({ data }: { data: DevicePage }): JSX.Element {
  const none = data.channels.length + data.accounts.length === 0;
  return (
    <>
      {data.channels.length > 0 && (
        <Section title="Channels" note="money that this device pays from">
          {data.channels.map((channel) => (
            <ChannelCard key={channel.channel_id} channel={channel} />
          ))}
        </Section>
      )}
      {data.accounts.length > 0 && (
        <Section title="Accounts" note="money that this device earns">
          {data.accounts.map((account) => (
            <AccountCard key={account.account_id} account={account} />
          ))}
        </Section>
      )}
      {none && (
        <Empty title="No channel and no account yet">The device opens one by itself when it has read the offer.</Empty>
      )}
    </>
  );
}
