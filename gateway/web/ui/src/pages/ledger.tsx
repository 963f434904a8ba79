// The double-entry books, and whether they agree with the chain.
import type { JSX } from "preact";
import { useState } from "preact/hooks";
import { ApiError, ask } from "../api";
import type { BookAccountRow, BooksCheck, TrialBalance } from "../api_types";
import { useApi } from "../fetching";
import { count, sentence } from "../format";
import { useLive } from "../live";
import { Icon } from "../parts/icons";
import { PageFrame, Section } from "../parts/page";
import { ActionError, Shown } from "../parts/states";
import { Table } from "../parts/table";
import { Money } from "../parts/text";

export function Ledger(): JSX.Element {
  const balance = useApi<TrialBalance>("/ledger", 15_000);
  useLive("cycle", () => balance.reload());
  return (
    <PageFrame title="Books" lead="Double entry, to the unit: debits and credits are always equal.">
      <Check />
      <Shown of={balance} lines={10}>
        {(data) => <Balance data={data} />}
      </Shown>
    </PageFrame>
  );
}

function Balance({ data }: { data: TrialBalance }): JSX.Element {
  const total: BookAccountRow = { account: "", name: "Sum", side: "", balance: "" };
  return (
    <Section title="Trial balance" note={`as of commit ${count(data.commit)}`}>
      <Table
        caption="Trial balance"
        rows={[...data.accounts, total]}
        rowKey={(row) => row.account}
        columns={[
          { name: "Account", head: true, cell: (row) => (row.account === "" ? <strong>Sum</strong> : sentence(row.name).slice(0, -1)) },
          { name: "Code", from: 1, cell: (row) => <code class="muted">{row.account}</code> },
          { name: "Debit", right: true, cell: (row) => side(row, "debit", data.debit) },
          { name: "Credit", right: true, cell: (row) => side(row, "credit", data.credit) },
        ]}
      />
    </Section>
  );
}

function side(row: BookAccountRow, wanted: string, sum: string): JSX.Element | null {
  if (row.account === "") {
    return (
      <strong>
        <Money of={sum} />
      </strong>
    );
  }
  return row.side === wanted ? <Money of={row.balance} /> : null;
}

function Check(): JSX.Element {
  const [checked, setChecked] = useState<BooksCheck | null>(null);
  const [busy, setBusy] = useState(false);
  const [error, setError] = useState<ApiError | null>(null);
  const check = async (): Promise<void> => {
    setBusy(true);
    setError(null);
    try {
      setChecked(await ask<BooksCheck>("/ledger/check"));
    } catch (thrown) {
      setError(thrown instanceof ApiError ? thrown : new ApiError(0, "unreadable", "The answer could not be read."));
    }
    setBusy(false);
  };
  return (
    <Section
      title="Do the books agree with the chain?"
      actions={
        <button type="button" disabled={busy} onClick={() => void check()}>
          {busy ? "Checking…" : "Check now"}
        </button>
      }
    >
      <ActionError error={error} />
      <div role="status">
        {checked === null ? (
          <p class="muted">Reads every balance from the chain and compares it with the books, to the unit.</p>
        ) : checked.good ? (
          <p class="verdict ok">
            <Icon name="ok" /> They agree, to the unit.
          </p>
        ) : (
          <p class="verdict fault">
            <Icon name="warn" /> They do not agree.
          </p>
        )}
        {checked && checked.faults.length + checked.warnings.length > 0 && (
          <ul>
            {[...checked.faults, ...checked.warnings].map((each) => (
              <li key={each}>{sentence(each)}</li>
            ))}
          </ul>
        )}
      </div>
    </Section>
  );
}
