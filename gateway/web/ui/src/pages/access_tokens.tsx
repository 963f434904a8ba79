// Tokens for programs; a new one's secret is shown once.
import type { JSX } from "preact";
import { useState } from "preact/hooks";
import type { MadeToken, Page, TokenRow } from "../api_types";
import { useAction, useApi } from "../fetching";
import { Dialog } from "../parts/dialog";
import { Choice, Field } from "../parts/form";
import { Section } from "../parts/page";
import { ActionError, Empty, Shown } from "../parts/states";
import { Table } from "../parts/table";
import { Ago, Copy, Pill, When } from "../parts/text";
import { toast } from "../parts/toast";
import { SCOPES } from "./access";

const LIVES: [string, string][] = [
  ["2592000", "30 days"],
  ["31536000", "a year"],
  ["0", "until it is revoked"],
];

export function Tokens(): JSX.Element {
  const tokens = useApi<Page<TokenRow>>("/tokens");
  const [making, setMaking] = useState(false);
  const [revoking, setRevoking] = useState<TokenRow | null>(null);
  return (
    <Section
      title="Tokens"
      note="for programs and Prometheus"
      actions={
        <button type="button" onClick={() => setMaking(true)}>
          Make…
        </button>
      }
    >
      <Shown of={tokens}>
        {(page) =>
          page.items.length === 0 ? (
            <Empty title="No tokens">A token lets a program use the API with a scope of its own.</Empty>
          ) : (
            <Table
              caption="Tokens"
              rows={page.items}
              rowKey={(row) => row.id}
              columns={[
                { name: "Name", head: true, cell: (row) => row.name },
                { name: "May", cell: (row) => <Pill state="quiet">{row.scope}</Pill> },
                { name: "Ends", from: 1, cell: (row) => <When at={row.expires_at} /> },
                { name: "Last used", from: 1, cell: (row) => <Ago at={row.used_at} none="not yet" /> },
                {
                  name: "Change",
                  right: true,
                  cell: (row) => (
                    <button type="button" class="link" onClick={() => setRevoking(row)}>
                      Revoke<span class="unseen"> {row.name}</span>
                    </button>
                  ),
                },
              ]}
            />
          )
        }
      </Shown>
      {making && (
        <MakeDialog
          onClose={() => {
            setMaking(false);
            tokens.reload();
          }}
        />
      )}
      {revoking && (
        <RevokeDialog
          token={revoking}
          onClose={() => {
            setRevoking(null);
            tokens.reload();
          }}
        />
      )}
    </Section>
  );
}

function MakeDialog({ onClose }: { onClose: () => void }): JSX.Element {
  const [name, setName] = useState("");
  const [scope, setScope] = useState("read");
  const [life, setLife] = useState("2592000");
  const [made, setMade] = useState<MadeToken | null>(null);
  const action = useAction();
  const make = async (event: Event): Promise<void> => {
    event.preventDefault();
    setMade(await action.run<MadeToken>("/tokens", { method: "POST", body: { name, scope, life_s: Number(life) } }));
  };
  if (made !== null) {
    return (
      <Dialog title={`Token ${made.token.name}`} onClose={onClose}>
        <p>Keep it now: it is not shown again. The gateway holds only its hash.</p>
        <p class="secret">
          <code>{made.secret}</code>
          <Copy text={made.secret} what="the token" />
        </p>
        <p class="muted small">
          Send it as <code>Authorization: Bearer …</code>
        </p>
        <footer>
          <button type="button" class="primary" onClick={onClose}>
            I have it
          </button>
        </footer>
      </Dialog>
    );
  }
  return (
    <Dialog title="Make a token" onClose={onClose}>
      <form onSubmit={(event) => void make(event)}>
        <Field label="Name" value={name} onValue={setName} required maxLength={64} note="What uses it." />
        <Choice label="May" value={scope} options={SCOPES} onValue={setScope} />
        <Choice label="For" value={life} options={LIVES} onValue={setLife} />
        <ActionError error={action.error} />
        <footer>
          <button type="button" onClick={onClose}>
            Cancel
          </button>
          <button type="submit" class="primary" disabled={action.busy}>
            Make
          </button>
        </footer>
      </form>
    </Dialog>
  );
}

function RevokeDialog({ token, onClose }: { token: TokenRow; onClose: () => void }): JSX.Element {
  const action = useAction();
  const revoke = async (): Promise<void> => {
    if ((await action.run(`/tokens/${encodeURIComponent(token.id)}`, { method: "DELETE" })) === null) return;
    toast(`The token ${token.name} is revoked.`);
    onClose();
  };
  return (
    <Dialog title={`Revoke ${token.name}?`} onClose={onClose}>
      <p>What uses this token is refused from now on.</p>
      <ActionError error={action.error} />
      <footer>
        <button type="button" onClick={onClose}>
          Cancel
        </button>
        <button type="button" class="danger primary" disabled={action.busy} onClick={() => void revoke()}>
          Revoke
        </button>
      </footer>
    </Dialog>
  );
}
