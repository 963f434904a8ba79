// Enrolling a device by hand, and adding to a known one.
import type { JSX } from "preact";
import { useState } from "preact/hooks";
import type { DevicePage } from "../api_types";
import { useAction } from "../fetching";
import { Dialog } from "../parts/dialog";
import { Field } from "../parts/form";
import { ActionError } from "../parts/states";
import { toast } from "../parts/toast";
import { go } from "../router";

/** One hex value per line or comma. */
export function hexList(text: string): string[] {
  return text.split(/[\s,]+/).filter((each) => each !== "");
}

interface Lists {
  payers: string;
  accounts: string;
  note: string;
}

function Fields({ value, onValue, adding }: { value: Lists; onValue: (value: Lists) => void; adding: boolean }): JSX.Element {
  const more = adding ? "to add, " : "";
  return (
    <>
      <Field label="Note" value={value.note} onValue={(note) => onValue({ ...value, note })} maxLength={200} note="For you: where it is, whose it is." />
      <Field
        label="Payers"
        rows={2}
        mono
        value={value.payers}
        onValue={(payers) => onValue({ ...value, payers })}
        note={`Addresses ${more}one per line: whose deposits this device may use.`}
      />
      <Field
        label="Accounts"
        rows={2}
        mono
        value={value.accounts}
        onValue={(accounts) => onValue({ ...value, accounts })}
        note={`Account ids ${more}one per line: for devices that earn.`}
      />
    </>
  );
}

export function EditDialog({ page, onClose, onDone }: { page: DevicePage; onClose: () => void; onDone: () => void }): JSX.Element {
  const { device, note, enrolled } = page.row;
  const [value, setValue] = useState<Lists>({ payers: "", accounts: "", note });
  const action = useAction();
  const save = async (event: Event): Promise<void> => {
    event.preventDefault();
    const body = { payers: hexList(value.payers), accounts: hexList(value.accounts), note: value.note.trim() };
    const answer = enrolled
      ? await action.run<DevicePage>(`/devices/${encodeURIComponent(device)}`, { method: "PATCH", body })
      : await action.run<DevicePage>("/devices", { method: "POST", body: { ...body, device } });
    if (answer === null) return;
    toast(enrolled ? `${device}: saved.` : `${device} is enrolled.`);
    onDone();
  };
  return (
    <Dialog title={enrolled ? `Edit ${device}` : `Enrol ${device}`} onClose={onClose}>
      <form onSubmit={(event) => void save(event)}>
        <Fields value={value} onValue={setValue} adding={enrolled} />
        <ActionError error={action.error} />
        <footer>
          <button type="button" onClick={onClose}>
            Cancel
          </button>
          <button type="submit" class="primary" disabled={action.busy}>
            {action.busy ? "Saving…" : enrolled ? "Save" : "Enrol"}
          </button>
        </footer>
      </form>
    </Dialog>
  );
}

/** The form for a device that has never been heard of. */
export function EnrolForm(): JSX.Element {
  const [device, setDevice] = useState("");
  const [value, setValue] = useState<Lists>({ payers: "", accounts: "", note: "" });
  const action = useAction();
  const enrol = async (event: Event): Promise<void> => {
    event.preventDefault();
    const name = device.trim();
    const body = { device: name, payers: hexList(value.payers), accounts: hexList(value.accounts), note: value.note.trim() };
    if ((await action.run<DevicePage>("/devices", { method: "POST", body })) === null) return;
    toast(`${name} is enrolled.`);
    go(`/devices/${encodeURIComponent(name)}`);
  };
  return (
    <form onSubmit={(event) => void enrol(event)}>
      <Field label="Device id" value={device} onValue={setDevice} mono required maxLength={64} note="As it stands in the device’s topic." />
      <Fields value={value} onValue={setValue} adding={false} />
      <ActionError error={action.error} />
      <button type="submit" disabled={action.busy}>
        {action.busy ? "Enrolling…" : "Enrol"}
      </button>
    </form>
  );
}
