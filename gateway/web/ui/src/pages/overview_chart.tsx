// The chart of the last ten minutes, which grows by the second, or of the last day.
import type { JSX } from "preact";
import { useMemo, useState } from "preact/hooks";
import type { Series } from "../api_types";
import { useApi } from "../fetching";
import { useLive, type SeriesPoint } from "../live";
import { Chart, type ChartData, type Line } from "../parts/chart";
import { Switch } from "../parts/form";
import { Section } from "../parts/page";
import { Failure, Loading } from "../parts/states";
import { useDecimals } from "../session";

const SECONDS = 600;

interface Kind {
  name: string;
  title: string;
  unit: string;
  lines: Line[];
  /** Values are base units. */
  money?: boolean;
  take: (point: SeriesPoint) => (number | null)[];
}

const KINDS: Kind[] = [
  {
    name: "payments",
    title: "Payments",
    unit: "per second",
    lines: [{ name: "payments", colour: "--chart-1", area: true }],
    take: (point) => [point.payments_per_s],
  },
  {
    name: "charged",
    title: "Charged",
    unit: "tokens per second",
    lines: [{ name: "charged", colour: "--chart-1", area: true }],
    money: true,
    take: (point) => [point.charged_per_s],
  },
  {
    name: "exposure",
    title: "Exposure",
    unit: "tokens unsettled",
    lines: [{ name: "exposure", colour: "--chart-1", area: true }],
    money: true,
    take: (point) => [Number(point.exposure)],
  },
  {
    name: "latency",
    title: "Latency",
    unit: "ms to the receipt",
    lines: [
      { name: "half within", colour: "--chart-1" },
      { name: "99 of 100 within", colour: "--chart-2" },
    ],
    take: (point) => [point.p50_ms, point.p99_ms],
  },
  {
    name: "refused",
    title: "Refused",
    unit: "per second",
    lines: [{ name: "refused", colour: "--chart-2", area: true }],
    take: (point) => [point.refused_per_s],
  },
];

export function LiveChart(): JSX.Element {
  const [name, setName] = useState("payments");
  const [range, setRange] = useState("10m");
  const kind = KINDS.find((each) => each.name === name) ?? KINDS[0]!;
  const series = useApi<Series>(`/series?name=${kind.name}&range=${range}`, range === "24h" ? 60_000 : 0);
  const fresh = series.path?.includes(`name=${kind.name}&range=${range}`) ? series.data : null;
  useLive("series", (point) => {
    if (range === "10m" && fresh !== null) series.set(appended(fresh, point, kind));
  });
  const decimals = useDecimals();
  const data = useMemo<ChartData>(() => scaled(fresh, kind, decimals), [fresh, kind, decimals]);
  return (
    <Section
      title={kind.title}
      actions={
        <>
          <Switch label="What the chart shows" value={name} onValue={setName} options={KINDS.map((each) => [each.name, each.title])} />
          <Switch label="How far back" value={range} onValue={setRange} options={[["10m", "10 min"], ["24h", "24 h"]]} />
        </>
      }
    >
      {series.error && <Failure error={series.error} again={series.reload} />}
      {fresh === null && !series.error ? (
        <Loading lines={5} what="Loading the chart" />
      ) : (
        <Chart title={kind.title} unit={kind.unit} lines={kind.lines} data={data} />
      )}
    </Section>
  );
}

function appended(series: Series, point: SeriesPoint, kind: Kind): Series {
  const last = series.t.at(-1);
  if (last !== undefined && point.t <= last) return series;
  const values = kind.take(point);
  return {
    names: series.names,
    t: [...series.t, point.t].slice(-SECONDS),
    v: series.v.map((column, index) => [...column, values[index] ?? null].slice(-SECONDS)),
  };
}

/** Base units become tokens: for a picture a float is exact enough. */
function scaled(series: Series | null, kind: Kind, decimals: number): ChartData {
  if (series === null) return { t: [], v: kind.lines.map(() => []) };
  if (!kind.money) return { t: series.t, v: series.v };
  const unit = 10 ** decimals;
  return { t: series.t, v: series.v.map((column) => column.map((value) => (value === null ? null : value / unit))) };
}

