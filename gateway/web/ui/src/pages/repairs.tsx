// What is wrong and can be mended: why, how, and a button where the gateway can do it itself.
import type { JSX } from "preact";
import { useState } from "preact/hooks";
import type { Backup, Page, Repair, Repaired } from "../api_types";
import { useAction, useApi } from "../fetching";
import { count, sentence } from "../format";
import { useLive } from "../live";
import { Icon } from "../parts/icons";
import { PageFrame, Section } from "../parts/page";
import { ActionError, Shown } from "../parts/states";
import { Ago, Marked, Pill } from "../parts/text";
import { toast } from "../parts/toast";
import { useMay, useSite } from "../session";

export function Repairs(): JSX.Element {
  const repairs = useApi<Page<Repair>>("/repairs", 15_000);
  useLive("repair", () => repairs.reload());
  return (
    <PageFrame title="Repairs" lead="Problems that somebody can mend, the gravest first.">
      <Shown of={repairs}>
        {(page) =>
          page.items.length === 0 ? (
            <div class="notice ok">
              <Icon name="ok" />
              <p>
                <strong>Nothing to mend.</strong> Broker, chain, clock, disk, gas and deposits are as they should be.
              </p>
            </div>
          ) : (
            <ul class="plain stack">
              {page.items.map((repair) => (
                <RepairCard key={repair.code} repair={repair} onDone={repairs.reload} />
              ))}
            </ul>
          )
        }
      </Shown>
      <BackupCard />
    </PageFrame>
  );
}

/** The last backup, and making one now. */
function BackupCard(): JSX.Element {
  const { overview } = useSite();
  const mayOperate = useMay("operate");
  const action = useAction();
  const [made, setMade] = useState<Backup | null>(null);
  const make = async (): Promise<void> => {
    const answer = await action.run<Backup>("/backup", { method: "POST" });
    if (answer !== null) setMade(answer);
  };
  return (
    <Section
      title="Backup"
      note={
        <>
          the last one: <Ago at={made?.at ?? overview?.backup.last_at} none="none known" />
        </>
      }
      actions={
        mayOperate && (
          <button type="button" disabled={action.busy} onClick={() => void make()}>
            {action.busy ? "Making it…" : "Make one now"}
          </button>
        )
      }
    >
      <div role="status">
        {made === null ? (
          <p class="muted">
            Everything that the gateway must not lose, in one file. <code>metergate restore FILE --check</code> proves it.
          </p>
        ) : (
          <p>
            Written: <code class="wrap">{made.file}</code>, {count(Math.ceil(made.bytes / 1_024))} KiB, up to commit {count(made.commit)}. Keep it
            on another machine.
          </p>
        )}
      </div>
      <ActionError error={action.error} />
    </Section>
  );
}

function RepairCard({ repair, onDone }: { repair: Repair; onDone: () => void }): JSX.Element {
  const action = useAction();
  const mayOperate = useMay("operate");
  const { severity } = repair;
  const press = async (): Promise<void> => {
    const answer = await action.run<Repaired>(`/repairs/${encodeURIComponent(repair.code)}`, { method: "POST" });
    if (answer === null) return;
    toast(sentence(answer.words));
    onDone();
  };
  return (
    <li class={`card repair ${severity === "fault" ? "fault" : "warn"}`}>
      <div class="card-head">
        <h2>{repair.title}</h2>
        <Pill state={severity}>{severity}</Pill>
      </div>
      <p>
        <Marked text={sentence(repair.words)} />
      </p>
      <p class="how">
        <strong>What to do: </strong>
        <Marked text={sentence(repair.how)} />
      </p>
      <ActionError error={action.error} />
      <div class="actions">
        {repair.action !== null && (
          <button type="button" class="primary" disabled={action.busy || !mayOperate} onClick={() => void press()}>
            {action.busy ? "Working…" : repair.action.label}
          </button>
        )}
        {repair.link !== "" && (
          <a class="button" href={repair.link}>
            Look there
          </a>
        )}
      </div>
      {repair.action !== null && !mayOperate && <p class="muted small">Your login may read only.</p>}
    </li>
  );
}
