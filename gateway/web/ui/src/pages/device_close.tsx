// Closing a device's channels, after a question.
import type { JSX } from "preact";
import { useState } from "preact/hooks";
import type { ChannelShape, Closed } from "../api_types";
import { useAction } from "../fetching";
import { plural } from "../format";
import { Dialog } from "../parts/dialog";
import { Choice } from "../parts/form";
import { ActionError } from "../parts/states";
import { Table } from "../parts/table";
import { Money, Pill } from "../parts/text";
import { toast } from "../parts/toast";

interface Props {
  device: string;
  channels: ChannelShape[];
  onClose: () => void;
  onDone: () => void;
}

export function CloseDialog({ device, channels, onClose, onDone }: Props): JSX.Element {
  const open = channels.filter((channel) => channel.phase === "open" || channel.phase === "withdrawing");
  const [picked, setPicked] = useState("");
  const action = useAction();
  const meant = picked === "" ? open : open.filter((channel) => channel.channel_id === picked);
  const close = async (): Promise<void> => {
    const path = `/devices/${encodeURIComponent(device)}/close`;
    const answer = await action.run<Closed>(path, { method: "POST", body: { channel: picked === "" ? null : picked } });
    if (answer === null) return;
    toast(answer.closed ? `${device}: closed.` : `${device}: closing. It ends by itself once the chain has it.`);
    onDone();
  };
  return (
    <Dialog title={`Close channels of ${device}?`} onClose={onClose}>
      <p>
        A closing channel takes no more readings. What is owed is claimed, the rest goes back to its payer, and the
        device has to open a new channel before it can pay again. This cannot be undone.
      </p>
      {open.length > 1 && (
        <Choice
          label="Which"
          value={picked}
          onValue={setPicked}
          options={[["", `all ${open.length} that are open`], ...open.map((each): [string, string] => [each.channel_id, each.service])]}
        />
      )}
      <Table
        caption="What closing does"
        rows={meant}
        rowKey={(row) => row.channel_id}
        columns={[
          { name: "Channel", head: true, cell: (row) => row.service },
          { name: "Now", cell: (row) => <Pill state={row.phase} /> },
          { name: "To be claimed", right: true, cell: (row) => <Money of={row.unclaimed} /> },
          { name: "Goes back", right: true, cell: (row) => <Money of={left(row)} /> },
        ]}
      />
      <ActionError error={action.error} />
      <footer>
        <button type="button" onClick={onClose}>
          Keep {meant.length === 1 ? "it" : "them"} open
        </button>
        <button type="button" class="danger primary" disabled={action.busy} onClick={() => void close()}>
          {action.busy ? "Closing…" : `Close ${plural(meant.length, "channel")}`}
        </button>
      </footer>
    </Dialog>
  );
}

/** What stays of the balance after the claim. */
function left(channel: ChannelShape): string {
  const rest = BigInt(channel.balance) - BigInt(channel.claimed) - BigInt(channel.unclaimed);
  return (rest < 0n ? 0n : rest).toString();
}
