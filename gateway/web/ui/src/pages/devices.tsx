// All devices: searched, filtered and sorted by the gateway, a page at a time.
import type { JSX } from "preact";
import { useEffect, useRef, useState } from "preact/hooks";
import { withQuery } from "../api";
import type { DeviceRow, Page } from "../api_types";
import { useApi } from "../fetching";
import { count, words } from "../format";
import { useLive } from "../live";
import { Choice } from "../parts/form";
import { PageFrame } from "../parts/page";
import { Empty, Shown } from "../parts/states";
import { Pager, Table, type Column } from "../parts/table";
import { Ago, Fill, Money, Pill } from "../parts/text";
import { setQuery, usePlace } from "../router";
import { useSite } from "../session";

const REFRESH_MS = 5_000;
const FILTERS = ["search", "status", "service", "problem"] as const;

const COLUMNS: Column<DeviceRow>[] = [
  {
    name: "Device",
    sort: "device",
    head: true,
    cell: (row) => (
      <>
        <a class="name" title={row.device} href={`/devices/${encodeURIComponent(row.device)}`}>
          {row.device}
        </a>
        {row.note !== "" && <span class="sub">{row.note}</span>}
      </>
    ),
  },
  {
    name: "Status",
    cell: (row) => (
      <>
        <Pill state={row.status} />
        {row.problem !== "" && <Pill state={row.problem} />}
      </>
    ),
  },
  { name: "Service", from: 1, cell: (row) => row.services.length > 0 ? <span class="nowrap">{row.services.join(", ")}</span> : <span class="muted">none yet</span> },
  { name: "Register", sort: "register", right: true, from: 2, cell: (row) => count(row.register) },
  { name: "Rate per hour", sort: "rate", right: true, from: 1, cell: (row) => <Money of={row.rate} /> },
  {
    name: "Charged",
    sort: "charged",
    right: true,
    cell: (row) => (
      <>
        <Money of={row.charged} />
        {row.earned !== "0" && (
          <span class="sub nowrap">
            earned <Money of={row.earned} />
          </span>
        )}
      </>
    ),
  },
  { name: "Unclaimed", sort: "unclaimed", right: true, from: 2, cell: (row) => <Money of={row.unclaimed} /> },
  {
    name: "Deposit used",
    sort: "fill",
    from: 1,
    cell: (row) => <Fill share={row.fill} label={`Deposit used by ${row.device}`} />,
  },
  { name: "Last receipt", sort: "last_receipt_at", from: 1, cell: (row) => <Ago at={row.last_receipt_at} none="none yet" /> },
  {
    name: "Last refusal",
    sort: "last_refusal",
    from: 2,
    cell: (row) =>
      row.last_refusal ? (
        <>
          <code>{row.last_refusal.reason}</code>
          <span class="sub">
            <Ago at={row.last_refusal.at} />
            {row.last_refusal.times > 1 && `, ${row.last_refusal.times} in a row`}
          </span>
        </>
      ) : (
        <span class="muted">none</span>
      ),
  },
];

export function Devices(): JSX.Element {
  const { query } = usePlace();
  const names = [...FILTERS, "sort", "cursor"] as const;
  const devices = useApi<Page<DeviceRow>>(
    withQuery("/devices", Object.fromEntries(names.map((name) => [name, query.get(name)]))),
    REFRESH_MS,
  );
  useLive("device", () => devices.reload());
  const filtered = FILTERS.some((name) => query.has(name));
  return (
    <PageFrame title="Devices" actions={<a class="button" href="/enrolment">Enrol a device</a>}>
      <Filters filtered={filtered} />
      <Shown of={devices} lines={10}>
        {(page) =>
          page.items.length === 0 ? (
            <NoDevices filtered={filtered} />
          ) : (
            <div class="card">
              <Table caption="Devices" columns={COLUMNS} rows={page.items} rowKey={(row) => row.device} />
              <Pager page={page} what="devices" />
            </div>
          )
        }
      </Shown>
      <p class="unseen" role="status">
        {devices.data && !devices.loading && `${count(devices.data.total ?? devices.data.items.length)} devices found`}
      </p>
    </PageFrame>
  );
}

function NoDevices({ filtered }: { filtered: boolean }): JSX.Element {
  if (filtered) {
    return (
      <Empty title="No device is like that">
        <button type="button" class="link" onClick={clear}>
          Show all devices
        </button>
      </Empty>
    );
  }
  return (
    <Empty title="No devices yet">
      Open the enrolment window, then switch a device on: <a href="/enrolment">to enrolment</a>.
    </Empty>
  );
}

function clear(): void {
  setQuery({ search: null, status: null, service: null, problem: null, cursor: null });
}

const STATUS = ["online", "quiet", "never", "unknown"];
const PROBLEMS = ["refused", "no_deposit", "deposit_low", "withdrawing", "owes", "closed"];

function Filters({ filtered }: { filtered: boolean }): JSX.Element {
  const { query } = usePlace();
  const { overview } = useSite();
  const services = Object.keys(overview?.services ?? {}).sort();
  const pick = (name: string) => (value: string) => setQuery({ [name]: value, cursor: null });
  return (
    <form class="filters" role="search" aria-label="Devices" onSubmit={(event) => event.preventDefault()}>
      <Search />
      <Choice
        label="Status"
        value={query.get("status") ?? ""}
        options={[["", "any"], ...STATUS.map((each): [string, string] => [each, words(each)])]}
        onValue={pick("status")}
      />
      <Choice
        label="Problem"
        value={query.get("problem") ?? ""}
        options={[["", "with or without"], ["any", "any problem"], ...PROBLEMS.map((each): [string, string] => [each, words(each)])]}
        onValue={pick("problem")}
      />
      <Choice
        label="Service"
        value={query.get("service") ?? ""}
        options={[["", "any"], ...services.map((each): [string, string] => [each, each])]}
        onValue={pick("service")}
      />
      {filtered && (
        <button type="button" class="link" onClick={clear}>
          Clear the filters
        </button>
      )}
    </form>
  );
}

const TYPING_MS = 250;

/** Searches when typing pauses. */
function Search(): JSX.Element {
  const { query } = usePlace();
  const asked = query.get("search") ?? "";
  const [text, setText] = useState(asked);
  const timer = useRef<number | undefined>(undefined);
  useEffect(() => setText(asked), [asked]);
  useEffect(() => () => clearTimeout(timer.current), []);
  const type = (value: string): void => {
    setText(value);
    clearTimeout(timer.current);
    timer.current = window.setTimeout(() => setQuery({ search: value.trim(), cursor: null }), TYPING_MS);
  };
  return (
    <div class="field grow">
      <label for="search">Search</label>
      <input
        id="search"
        type="search"
        value={text}
        placeholder="Name or note"
        onInput={(event) => type(event.currentTarget.value)}
      />
    </div>
  );
}
