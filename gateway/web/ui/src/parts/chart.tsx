// A line chart with a text beside it that says the same, and its figures as a table on demand.
import type { JSX } from "preact";
import { useEffect, useId, useRef, useState } from "preact/hooks";
import uPlot from "uplot";
import { axisTime, isoTime, measure } from "../format";

export interface Line {
  name: string;
  /** A custom property with its colour. */
  colour: string;
  area?: boolean;
}

export interface ChartData {
  t: number[];
  v: (number | null)[][];
}

interface Props {
  title: string;
  unit: string;
  lines: Line[];
  data: ChartData;
  height?: number;
  format?: (value: number | null | undefined) => string;
  /** False for what only ever rises: then the scale shows the part that is there. */
  fromZero?: boolean;
}

const TABLE_ROWS_MAX = 30;

export function Chart({ title, unit, lines, data, height = 200, format = measure, fromZero = true }: Props): JSX.Element {
  const box = useRef<HTMLDivElement>(null);
  const plot = useRef<uPlot | null>(null);
  const [at, setAt] = useState<number | null>(null);
  const [theme, setTheme] = useState(0);
  const latest = useRef(data);
  latest.current = data;
  const shape = lines.map((line) => line.name + line.colour).join();
  useEffect(() => {
    const again = (): void => setTheme((number) => number + 1);
    addEventListener("metergate-theme", again);
    return () => removeEventListener("metergate-theme", again);
  }, []);
  useEffect(() => {
    const element = box.current;
    if (element === null) return;
    const made = new uPlot(options(element, lines, height, format, setAt, fromZero), columns(latest.current), element);
    plot.current = made;
    const watch = new ResizeObserver(() => made.setSize({ width: element.clientWidth, height }));
    watch.observe(element);
    return () => {
      watch.disconnect();
      made.destroy();
      plot.current = null;
    };
  }, [shape, height, theme]);
  useEffect(() => plot.current?.setData(columns(data)), [data]);
  const index = at ?? data.t.length - 1;
  return (
    <figure class="chart">
      <figcaption>
        <span class="legend">
          {lines.map((line, number) => (
            <span key={line.name} class="legend-line">
              <span class={`swatch ${line.colour.slice(2)}`} aria-hidden="true" />
              {line.name} <strong>{format(data.v[number]?.[index])}</strong>
            </span>
          ))}
          <span class="muted">
            {unit}
            {at !== null && data.t[at] !== undefined && ` at ${axisTime(data.t[at], true)}`}
          </span>
        </span>
        <span class="unseen">{summary(title, unit, lines, data, format)}</span>
      </figcaption>
      <div class="plot" ref={box} aria-hidden="true" />
      <Figures title={title} lines={lines} data={data} format={format} />
    </figure>
  );
}

function columns(data: ChartData): uPlot.AlignedData {
  return [data.t, ...data.v] as uPlot.AlignedData;
}

function options(
  element: HTMLElement,
  lines: Line[],
  height: number,
  format: (value: number | null | undefined) => string,
  setAt: (index: number | null) => void,
  fromZero: boolean,
): uPlot.Options {
  const styles = getComputedStyle(element);
  const colour = (name: string): string => styles.getPropertyValue(name).trim();
  const axis = {
    stroke: colour("--muted"),
    grid: { stroke: colour("--line"), width: 1 },
    ticks: { show: false },
    font: `12px ${styles.fontFamily}`,
  };
  return {
    width: Math.max(element.clientWidth, 100),
    height,
    padding: [8, 8, 0, 0],
    legend: { show: false },
    cursor: { y: false, drag: { x: false, y: false } },
    scales: { y: { range: (_plot, low, high) => bounds(low, high, fromZero) } },
    axes: [
      { ...axis, size: 30, values: (plot, splits) => splits.map((each) => axisTime(each, span(plot) < 900)), space: 80 },
      { ...axis, values: (_plot, splits) => splits.map((each) => format(each)), size: 64 },
    ],
    series: [
      {},
      ...lines.map((line) => ({
        label: line.name,
        stroke: colour(line.colour),
        ...(line.area ? { fill: `${colour(line.colour)}22` } : {}),
        width: 1.75,
        points: { show: false },
        spanGaps: false,
      })),
    ],
    hooks: { setCursor: [(plot) => setAt(plot.cursor.idx ?? null)] },
  };
}

function bounds(low: number | null, high: number | null, fromZero: boolean): [number, number] {
  if (low === null || high === null) return [0, 1];
  if (fromZero) return [Math.min(0, low), high > 0 ? high * 1.1 : 1];
  const room = (high - low) * 0.08 || Math.max(1, Math.abs(high) * 0.01);
  return [Math.max(low - room, low >= 0 ? 0 : low - room), high + room];
}

function span(plot: uPlot): number {
  const { min, max } = plot.scales["x"] ?? {};
  return (max ?? 0) - (min ?? 0);
}

function summary(title: string, unit: string, lines: Line[], data: ChartData, format: Props["format"]): string {
  const said = lines.map((line, index) => {
    const values = (data.v[index] ?? []).filter((value): value is number => value !== null);
    const last = values.at(-1);
    if (last === undefined) return `${line.name}: no figures yet`;
    const write = format ?? measure;
    const high = values.reduce((a, b) => Math.max(a, b));
    const low = values.reduce((a, b) => Math.min(a, b));
    return `${line.name}: last ${write(last)}, between ${write(low)} and ${write(high)} ${unit}`;
  });
  return `${title}. ${said.join(". ")}.`;
}

/** The chart's figures, thinned out, for those who do not see it or want to read exactly. */
function Figures({ title, lines, data, format }: Pick<Props, "title" | "lines" | "data"> & { format: NonNullable<Props["format"]> }): JSX.Element {
  const [open, setOpen] = useState(false);
  const id = useId();
  const step = Math.max(1, Math.ceil(data.t.length / TABLE_ROWS_MAX));
  const picked: number[] = [];
  for (let index = data.t.length - 1; index >= 0; index -= step) picked.push(index);
  return (
    <>
      <button type="button" class="link small" aria-expanded={open} aria-controls={id} onClick={() => setOpen(!open)}>
        {open ? "Hide the figures" : "Show the figures as a table"}
      </button>
      <div id={id} hidden={!open} class="table figures" tabIndex={0} role="region" aria-label={`Figures: ${title}`}>
        {open && (
          <table>
            <caption class="unseen">{title}, newest first</caption>
            <thead>
              <tr>
                <th scope="col">Time</th>
                {lines.map((line) => (
                  <th key={line.name} scope="col" class="right">
                    {line.name}
                  </th>
                ))}
              </tr>
            </thead>
            <tbody>
              {picked.map((index) => (
                <tr key={data.t[index]}>
                  <th scope="row">
                    <time dateTime={isoTime(data.t[index] ?? 0)}>{axisTime(data.t[index] ?? 0, true)}</time>
                  </th>
                  {lines.map((line, number) => (
                    <td key={line.name} class="right">
                      {format(data.v[number]?.[index])}
                    </td>
                  ))}
                </tr>
              ))}
            </tbody>
          </table>
        )}
      </div>
    </>
  );
}
