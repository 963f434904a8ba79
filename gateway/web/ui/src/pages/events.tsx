// The log: refusals and events, newest first; and what every refusal means.
import type { JSX } from "preact";
import { withQuery } from "../api";
import type { Event as LogEvent, Page, RefusalReason } from "../api_types";
import { useApi } from "../fetching";
import { count, sentence } from "../format";
import { useLive } from "../live";
import { Choice, Switch } from "../parts/form";
import { PageFrame } from "../parts/page";
import { Empty, Shown } from "../parts/states";
import { Pager } from "../parts/table";
import { Marked, Pill, When } from "../parts/text";
import { setQuery, usePlace } from "../router";
import { KindPill } from "./event_line";
import { newest } from "./overview_happening";
import { Cause, Explained } from "./reason";

const ROWS = 50;
const KINDS: [string, string][] = [
  ["", "all"],
  ["refusal", "refusals"],
  ["cycle", "settlements"],
  ["channel", "channels"],
  ["enrolment", "enrolment"],
  ["chain", "chain"],
  ["broker", "broker"],
  ["trouble", "trouble"],
];

export function Events(): JSX.Element {
  const { query } = usePlace();
  const view = query.get("view") === "reasons" ? "reasons" : "log";
  return (
    <PageFrame
      title="Log"
      actions={
        <Switch
          label="What to see"
          value={view}
          onValue={(value) => setQuery({ view: value === "log" ? null : value, cursor: null }, false)}
          options={[
            ["log", "Events"],
            ["reasons", "What refusals mean"],
          ]}
        />
      }
    >
      {view === "log" ? <Log /> : <Reasons />}
    </PageFrame>
  );
}

function Log(): JSX.Element {
  const { query } = usePlace();
  const kind = query.get("kind");
  const device = query.get("device");
  const cursor = query.get("cursor");
  const events = useApi<Page<LogEvent>>(withQuery("/events", { limit: String(ROWS), kind, device, cursor }));
  useLive("activity", (activity) => {
    if (cursor !== null || events.data === null) return;
    const fresh = activity.events.filter((each) => (!kind || each.kind === kind) && (!device || each.device === device));
    if (fresh.length > 0) events.set({ ...events.data, items: newest(events.data.items, fresh).slice(0, ROWS) });
  });
  return (
    <>
      <form class="filters" role="search" aria-label="Log" onSubmit={(event) => event.preventDefault()}>
        <Choice label="Kind" value={kind ?? ""} options={KINDS} onValue={(value) => setQuery({ kind: value, cursor: null })} />
        <div class="field">
          <label for="of-device">Device</label>
          <input
            id="of-device"
            type="search"
            value={device ?? ""}
            placeholder="exact id"
            onChange={(event) => setQuery({ device: event.currentTarget.value.trim(), cursor: null })}
          />
        </div>
      </form>
      <Shown of={events} lines={10}>
        {(page) =>
          page.items.length === 0 ? (
            <Empty title="Nothing of that kind">New events appear here by themselves.</Empty>
          ) : (
            <div class="card">
              <ul class="lines log">
                {page.items.map((event) => (
                  <Entry key={event.id} event={event} />
                ))}
              </ul>
              <Pager page={page} what="events" />
            </div>
          )
        }
      </Shown>
    </>
  );
}

function Entry({ event }: { event: LogEvent }): JSX.Element {
  const who =
    event.device === "" ? null : <a href={`/devices/${encodeURIComponent(event.device)}`}>{event.device}</a>;
  const times = event.times > 1 && <span class="muted">{count(event.times)} times</span>;
  if (event.reason === "") {
    return (
      <li>
        <When at={event.at} />
        <KindPill kind={event.kind} />
        {who}
        <span class="line-text">{sentence(event.words)}</span>
        {times}
      </li>
    );
  }
  return (
    <li>
      <When at={event.at} />
      <KindPill kind={event.kind} />
      {who}
      <details>
        <summary>
          <code>{event.reason}</code> {times}
        </summary>
        <Cause reason={event.reason} />
      </details>
    </li>
  );
}

function Reasons(): JSX.Element {
  const reasons = useApi<Page<RefusalReason>>("/refusals/reasons");
  return (
    <Shown of={reasons} lines={10}>
      {(page) => (
        <div class="card">
          <ul class="lines reasons">
            {page.items.map((reason) => (
              <li key={reason.number}>
                <details>
                  <summary>
                    <span class="number muted">{reason.number}</span>
                    <code>{reason.name}</code>
                    <span class="muted line-text">
                      <Marked text={reason.cause} />
                    </span>
                    {reason.transient && <Pill state="quiet">passes</Pill>}
                    <span class={reason.seen > 0 ? "times" : "times muted"}>{count(reason.seen)} seen</span>
                  </summary>
                  <Explained reason={reason} />
                </details>
              </li>
            ))}
          </ul>
        </div>
      )}
    </Shown>
  );
}
