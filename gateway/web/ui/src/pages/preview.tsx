// What settling now would do, channel by channel with the reason; and doing it.
import type { JSX } from "preact";
import { useState } from "preact/hooks";
import type { Decision, Preview, Settled } from "../api_types";
import { useAction, useApi } from "../fetching";
import { count, gweiText } from "../format";
import { Dialog } from "../parts/dialog";
import { ActionError, Empty, Shown } from "../parts/states";
import { Table } from "../parts/table";
import { Fact, Facts, Money, Pill } from "../parts/text";
import { toast } from "../parts/toast";
import { go } from "../router";

export function PreviewDialog({ onClose, onDone }: { onClose: () => void; onDone: () => void }): JSX.Element {
  const [whatever, setWhatever] = useState(false);
  const preview = useApi<Preview>(whatever ? "/settlement/preview?whatever_it_costs=yes" : "/settlement/preview");
  const action = useAction();
  const settle = async (): Promise<void> => {
    const answer = await action.run<Settled>("/settlement", { method: "POST", body: { whatever_it_costs: whatever } });
    if (answer === null) return;
    onDone();
    if (answer.running) toast("The settlement is running; it ends by itself.");
    else if (!answer.settled || answer.cycle === null) toast("There was nothing to settle.");
    else {
      toast(`Cycle ${answer.cycle.number} has settled.`);
      go(`/settlement/${answer.cycle.number}`);
    }
  };
  return (
    <Dialog title="Settle now?" onClose={onClose} wide>
      <Shown of={preview} lines={6}>
        {(data) => <Plan plan={data} />}
      </Shown>
      <label class="check">
        <input type="checkbox" checked={whatever} onChange={(event) => setWhatever(event.currentTarget.checked)} />
        Claim and pay everything, whatever the gas costs
      </label>
      <ActionError error={action.error} />
      <footer>
        <span class="muted small">Sends transactions to the chain. Readings go on meanwhile.</span>
        <span class="stretch" />
        <button type="button" onClick={onClose}>
          Not now
        </button>
        <button type="button" class="primary" disabled={action.busy || preview.data === null} onClick={() => void settle()}>
          {action.busy ? "Settling…" : "Settle now"}
        </button>
      </footer>
    </Dialog>
  );
}

function Plan({ plan }: { plan: Preview }): JSX.Element {
  return (
    <>
      <Facts wide>
        <Fact name="Claim from channels">
          <Money of={plan.claim} unit />
        </Fact>
        <Fact name="Net without the chain">
          <Money of={plan.offset} />
        </Fact>
        <Fact name="Pay to earners">
          <Money of={plan.pay} />
        </Fact>
        <Fact name="Leave for later">
          <Money of={plan.hold} />
        </Fact>
        <Fact name="Gas for the claims">
          <Money of={plan.claim_cost} />
        </Fact>
        <Fact name="Gas price">{gweiText(plan.gas_price)} gwei</Fact>
        <Fact name="Payouts that wait">
          <Money of={plan.pay_later} />
        </Fact>
        <Fact name="Unclaimed afterwards">
          <Money of={plan.exposure_after.total} />
        </Fact>
      </Facts>
      {plan.decisions.length === 0 ? (
        <Empty title="Nothing is owed on any channel">Settling would send no claim.</Empty>
      ) : (
        <Decisions rows={plan.decisions} total={plan.decisions_total} />
      )}
    </>
  );
}

// The gateway's own sentence counts in base units; it stands in the title.
const WHY: Record<string, string> = {
  withdrawal_urgent: "a pending withdrawal can take some of it",
  withdrawal_deadline: "a withdrawal ends soon",
  closing: "the channel is closing",
  exposure_channel: "more than one channel may leave unclaimed",
  exposure_party: "its payer leaves too much unclaimed",
  exposure_total: "too much is unclaimed in all",
  worth_it: "worth its gas",
  cash_needed: "payouts need the money",
  dust: "less than its gas costs",
  dust_deadline: "a withdrawal is pending, but it is less than its gas costs",
  waiting: "not worth its gas yet",
  nothing: "nothing is owed",
};

function Decisions({ rows, total }: { rows: Decision[]; total: number }): JSX.Element {
  return (
    <div class="scrolling">
      <Table
        caption={`What happens to each channel${total > rows.length ? ` (the largest ${count(rows.length)} of ${count(total)})` : ""}`}
        showCaption
        rows={rows}
        rowKey={(row) => row.channel_id}
        columns={[
          { name: "Device", head: true, cell: (row) => row.device },
          { name: "Now", cell: (row) => <Pill state={row.claim ? "ok" : "quiet"}>{row.claim ? "claim" : "wait"}</Pill> },
          { name: "Amount", right: true, cell: (row) => <Money of={row.amount} /> },
          { name: "Why", cell: (row) => <span title={row.words}>{WHY[row.reason] ?? row.words}</span> },
          { name: "Lane", right: true, from: 1, cell: (row) => row.lane },
        ]}
      />
    </div>
  );
}
