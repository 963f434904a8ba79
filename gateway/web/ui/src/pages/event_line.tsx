// One event of the log in one line.
import type { JSX } from "preact";
import type { Event as LogEvent } from "../api_types";
import { sentence } from "../format";
import { Pill, When, type Tone } from "../parts/text";

const KIND: Record<string, { name: string; tone: Tone }> = {
  refusal: { name: "refused", tone: "warn" },
  cycle: { name: "settlement", tone: "accent" },
  chain: { name: "chain", tone: "idle" },
  enrolment: { name: "enrolment", tone: "accent" },
  channel: { name: "channel", tone: "idle" },
  broker: { name: "broker", tone: "idle" },
  trouble: { name: "trouble", tone: "fault" },
};

export function KindPill({ kind }: { kind: string }): JSX.Element {
  const known = KIND[kind];
  return <span class={`pill ${known?.tone ?? "idle"}`}>{known?.name ?? kind}</span>;
}

export function EventLine({ event }: { event: LogEvent }): JSX.Element {
  return (
    <li>
      <KindPill kind={event.kind} />
      <span class="line-text">
        {event.device !== "" && (
          <>
            <a href={`/devices/${encodeURIComponent(event.device)}`}>{event.device}</a>{" "}
          </>
        )}
        {event.reason !== "" ? <Pill state="idle">{event.reason}</Pill> : sentence(event.words)}
        {event.times > 1 && <span class="muted"> {event.times} times</span>}
      </span>
      <When at={event.at} />
    </li>
  );
}
