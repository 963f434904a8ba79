// Who may do what: operators, tokens for programs, and what was done.
import type { JSX } from "preact";
import { withQuery } from "../api";
import type { AuditRow, Page } from "../api_types";
import { useApi } from "../fetching";
import { PageFrame, Section } from "../parts/page";
import { Empty, Shown } from "../parts/states";
import { Pager, Table } from "../parts/table";
import { Pill, When } from "../parts/text";
import { usePlace } from "../router";
import { useMay } from "../session";
import { Operators } from "./access_operators";
import { Tokens } from "./access_tokens";

export const SCOPES: [string, string][] = [
  ["read", "read: see everything"],
  ["operate", "operate: settle, enrol, close, repair"],
  ["admin", "admin: also operators and tokens"],
];

export function Access(): JSX.Element {
  const mayAdmin = useMay("admin");
  return (
    <PageFrame title="Access" lead="Who may see and do what, and what was done.">
      {mayAdmin ? (
        <>
          <div class="columns">
            <Operators />
            <Tokens />
          </div>
          <Audit />
        </>
      ) : (
        <Empty title="For administrators only">Your login may not see operators, tokens and the audit log.</Empty>
      )}
    </PageFrame>
  );
}

function Audit(): JSX.Element {
  const cursor = usePlace().query.get("cursor");
  const audit = useApi<Page<AuditRow>>(withQuery("/audit", { limit: "25", cursor }), cursor === null ? 15_000 : 0);
  return (
    <Section title="Audit log" note="every action, newest first">
      <Shown of={audit}>
        {(page) =>
          page.items.length === 0 ? (
            <Empty title="Nothing was done yet">Actions appear here with who did them and from where.</Empty>
          ) : (
            <>
              <Table
                caption="Actions, newest first"
                rows={page.items}
                rowKey={(row) => row.id}
                columns={[
                  { name: "When", head: true, cell: (row) => <When at={row.at} /> },
                  { name: "Who", cell: (row) => row.who },
                  { name: "What", cell: (row) => <code>{row.action}</code> },
                  { name: "On", from: 1, cell: (row) => <code class="wrap">{row.target}</code> },
                  { name: "From", from: 1, cell: (row) => row.address },
                  { name: "Outcome", cell: (row) => <Pill state={row.outcome === "done" ? "done" : "refused"}>{row.outcome}</Pill> },
                ]}
              />
              <Pager page={page} what="actions" />
            </>
          )
        }
      </Shown>
    </Section>
  );
}
