// What happens right now: the latest receipts and events, a few of many.
import type { JSX } from "preact";
import { useState } from "preact/hooks";
import type { Event as LogEvent, Page } from "../api_types";
import { useApi } from "../fetching";
import { useLive, type ReceiptSample } from "../live";
import { Section } from "../parts/page";
import { Empty, Shown } from "../parts/states";
import { Money, When } from "../parts/text";
import { EventLine } from "./event_line";

const KEPT = 8;

export function Happening(): JSX.Element {
  const events = useApi<Page<LogEvent>>(`/events?limit=${KEPT}`);
  const [receipts, setReceipts] = useState<(ReceiptSample & { id: number })[]>([]);
  useLive("activity", (activity) => {
    setReceipts((before) => {
      const first = (before[0]?.id ?? 0) + activity.receipts.length;
      const fresh = activity.receipts.map((each, index) => ({ ...each, id: first - index }));
      return [...fresh, ...before].slice(0, KEPT);
    });
    if (events.data !== null && activity.events.length > 0) {
      events.set({ ...events.data, items: newest(events.data.items, activity.events).slice(0, KEPT) });
    }
  });
  return (
    <div class="columns">
      <Section title="Receipts" note="a few of many, as they are sent">
        {receipts.length === 0 ? (
          <Empty title="Waiting for the next receipt">Devices send a reading when they have used something.</Empty>
        ) : (
          <ul class="lines" aria-live="off">
            {receipts.map((each) => (
              <li key={each.id}>
                <span class="line-text">
                  <a href={`/devices/${encodeURIComponent(each.device)}`}>{each.device}</a>{" "}
                  <span class="muted">{each.service}</span>
                </span>
                <Money of={each.amount} />
                <When at={each.at} />
              </li>
            ))}
          </ul>
        )}
      </Section>
      <Section title="Events" actions={<a href="/events">All of the log</a>}>
        <Shown of={events}>
          {(page) =>
            page.items.length === 0 ? (
              <Empty title="Nothing out of the ordinary">Refusals, cycles and trouble appear here.</Empty>
            ) : (
              <ul class="lines">
                {page.items.map((event) => (
                  <EventLine key={event.id} event={event} />
                ))}
              </ul>
            )
          }
        </Shown>
      </Section>
    </div>
  );
}

/** Put new events in front; one that came again, with more `times`, takes its own place. */
export function newest(known: LogEvent[], fresh: LogEvent[]): LogEvent[] {
  const all = new Map([...known, ...fresh].map((event) => [event.id, event]));
  return [...all.values()].sort((a, b) => b.id - a.id);
}
