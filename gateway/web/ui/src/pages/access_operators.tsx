// People who may log in.
import type { JSX } from "preact";
import { useState } from "preact/hooks";
import type { OperatorRow, Page } from "../api_types";
import { useAction, useApi } from "../fetching";
import { Dialog } from "../parts/dialog";
import { Choice, Field } from "../parts/form";
import { Section } from "../parts/page";
import { ActionError, Empty, Shown } from "../parts/states";
import { Table } from "../parts/table";
import { Pill, When } from "../parts/text";
import { toast } from "../parts/toast";
import { SCOPES } from "./access";

export function Operators(): JSX.Element {
  const operators = useApi<Page<OperatorRow>>("/operators");
  const [adding, setAdding] = useState(false);
  const [removing, setRemoving] = useState<string | null>(null);
  const done = (): void => {
    setAdding(false);
    setRemoving(null);
    operators.reload();
  };
  return (
    <Section
      title="Operators"
      actions={
        <button type="button" onClick={() => setAdding(true)}>
          Add…
        </button>
      }
    >
      <Shown of={operators}>
        {(page) =>
          page.items.length === 0 ? (
            <Empty title="Nobody may log in">In a demo nobody has to.</Empty>
          ) : (
            <Table
              caption="Operators"
              rows={page.items}
              rowKey={(row) => row.name}
              columns={[
                { name: "Name", head: true, cell: (row) => row.name },
                { name: "May", cell: (row) => <Pill state="quiet">{row.scope}</Pill> },
                { name: "Since", from: 1, cell: (row) => <When at={row.created_at} /> },
                {
                  name: "Change",
                  right: true,
                  cell: (row) => (
                    <button type="button" class="link" onClick={() => setRemoving(row.name)}>
                      Remove<span class="unseen"> {row.name}</span>
                    </button>
                  ),
                },
              ]}
            />
          )
        }
      </Shown>
      {adding && <AddDialog onClose={() => setAdding(false)} onDone={done} />}
      {removing !== null && <RemoveDialog name={removing} onClose={() => setRemoving(null)} onDone={done} />}
    </Section>
  );
}

function AddDialog({ onClose, onDone }: { onClose: () => void; onDone: () => void }): JSX.Element {
  const [name, setName] = useState("");
  const [password, setPassword] = useState("");
  const [scope, setScope] = useState("operate");
  const action = useAction();
  const add = async (event: Event): Promise<void> => {
    event.preventDefault();
    const answer = await action.run<OperatorRow>("/operators", { method: "POST", body: { name, password, scope } });
    if (answer === null) return;
    toast(`${name} may log in.`);
    onDone();
  };
  return (
    <Dialog title="Add an operator" onClose={onClose}>
      <form onSubmit={(event) => void add(event)}>
        <Field label="Name" value={name} onValue={setName} required maxLength={64} note="A name that exists already gets this password and scope." />
        <Field
          label="Password"
          type="password"
          value={password}
          onValue={setPassword}
          autocomplete="new-password"
          required
          minLength={10}
          note="At least 10 characters."
        />
        <Choice label="May" value={scope} options={SCOPES} onValue={setScope} />
        <ActionError error={action.error} />
        <footer>
          <button type="button" onClick={onClose}>
            Cancel
          </button>
          <button type="submit" class="primary" disabled={action.busy}>
            Add
          </button>
        </footer>
      </form>
    </Dialog>
  );
}

function RemoveDialog({ name, onClose, onDone }: { name: string; onClose: () => void; onDone: () => void }): JSX.Element {
  const action = useAction();
  const remove = async (): Promise<void> => {
    if ((await action.run(`/operators/${encodeURIComponent(name)}`, { method: "DELETE" })) === null) return;
    toast(`${name} may not log in any more.`);
    onDone();
  };
  return (
    <Dialog title={`Remove ${name}?`} onClose={onClose}>
      <p>All sessions of {name} end at once.</p>
      <ActionError error={action.error} />
      <footer>
        <button type="button" onClick={onClose}>
          Cancel
        </button>
        <button type="button" class="danger primary" disabled={action.busy} onClick={() => void remove()}>
          Remove
        </button>
      </footer>
    </Dialog>
  );
}
