// What came from a device: readings that were accepted, and messages that were refused.
import type { JSX } from "preact";
import { withQuery } from "../api";
import type { Event as LogEvent, Page, ReadingShape } from "../api_types";
import { useApi } from "../fetching";
import { count } from "../format";
import { Section } from "../parts/page";
import { Empty, Shown } from "../parts/states";
import { Pager, Table } from "../parts/table";
import { Money, When } from "../parts/text";
import { usePlace } from "../router";
import { Cause } from "./reason";

const ROWS = "15";
const REFRESH_MS = 10_000;

export function DeviceReadings({ device, units }: { device: string; units: Record<string, string> }): JSX.Element {
  const cursor = usePlace().query.get("readings");
  const path = withQuery(`/devices/${encodeURIComponent(device)}/readings`, { limit: ROWS, cursor });
  const readings = useApi<Page<ReadingShape>>(path, cursor === null ? REFRESH_MS : 0);
  return (
    <Section title="Readings" note="accepted, newest first">
      <Shown of={readings}>
        {(page) =>
          page.items.length === 0 ? (
            <Empty title="No reading yet" />
          ) : (
            <>
              <Table
                caption="Accepted readings, newest first"
                rows={page.items}
                rowKey={(row) => `${row.id}-${row.seq}`}
                columns={[
                  { name: "Device’s clock", head: true, cell: (row) => <When at={row.time / 1_000} /> },
                  { name: "No.", right: true, from: 1, cell: (row) => count(row.seq) },
                  { name: "Service", from: 1, cell: (row) => row.service },
                  { name: "Register", right: true, cell: (row) => `${count(row.register)} ${units[row.service] ?? ""}` },
                  { name: "Amount so far", right: true, cell: (row) => <Money of={row.amount} /> },
                ]}
              />
              <Pager page={page} what="readings" name="readings" />
            </>
          )
        }
      </Shown>
    </Section>
  );
}

export function DeviceRefusals({ device }: { device: string }): JSX.Element {
  const cursor = usePlace().query.get("refusals");
  const path = withQuery(`/devices/${encodeURIComponent(device)}/refusals`, { limit: ROWS, cursor });
  const refusals = useApi<Page<LogEvent>>(path, cursor === null ? REFRESH_MS : 0);
  return (
    <Section title="Refusals" note="since the gateway’s start">
      <Shown of={refusals}>
        {(page) =>
          page.items.length === 0 ? (
            <Empty title="Nothing was refused">Every message of this device was taken.</Empty>
          ) : (
            <>
              <ul class="lines">
                {page.items.map((event) => (
                  <li key={event.id}>
                    <details>
                      <summary>
                        <code>{event.reason}</code>
                        {event.times > 1 && <span class="muted"> {event.times} times</span>}
                        <span class="stretch" />
                        <When at={event.at} />
                      </summary>
                      <Cause reason={event.reason} />
                    </details>
                  </li>
                ))}
              </ul>
              <Pager page={page} what="refusals" name="refusals" />
            </>
          )
        }
      </Shown>
    </Section>
  );
}
