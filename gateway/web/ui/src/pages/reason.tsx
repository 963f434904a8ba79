// What a refusal means, in plain words, from the gateway's one table of reasons: read once, then kept.
import type { JSX } from "preact";
import { useEffect, useState } from "preact/hooks";
import { ask } from "../api";
import type { Page, RefusalReason } from "../api_types";
import { Marked } from "../parts/text";

let table: Promise<Map<string, RefusalReason>> | null = null;

function reasons(): Promise<Map<string, RefusalReason>> {
  table ??= ask<Page<RefusalReason>>("/refusals/reasons").then(
    (page) => new Map(page.items.map((each) => [each.name, each])),
    (error: unknown) => {
      table = null; // asked again the next time
      throw error;
    },
  );
  return table;
}

/** Cause, and what device and operator do. */
export function Cause({ reason }: { reason: string }): JSX.Element {
  const [known, setKnown] = useState<RefusalReason | null | undefined>(undefined);
  useEffect(() => {
    let shown = true;
    reasons().then(
      (all) => shown && setKnown(all.get(reason) ?? null),
      () => shown && setKnown(null),
    );
    return () => {
      shown = false;
    };
  }, [reason]);
  if (known === undefined) return <p class="muted">Looking up what that means…</p>;
  if (known === null) return <p class="muted">Its meaning could not be looked up; the list of reasons is in the log.</p>;
  return <Explained reason={known} />;
}

export function Explained({ reason }: { reason: RefusalReason }): JSX.Element {
  return (
    <dl class="explained">
      <dt>What it means</dt>
      <dd>
        <Marked text={reason.cause} />
        {reason.transient && " It passes: the very same message may be accepted later."}
      </dd>
      <dt>What you can do</dt>
      <dd>
        <Marked text={reason.operator_does} />
      </dd>
      <dt>What the device does</dt>
      <dd>
        <Marked text={reason.device_does} />
      </dd>
    </dl>
  );
}
