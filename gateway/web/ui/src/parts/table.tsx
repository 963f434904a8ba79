// Tables with a caption, column heads, sorting by the address, and pages by cursor.
import type { ComponentChildren, JSX } from "preact";
import { useEffect, useRef, useState } from "preact/hooks";
import type { Page } from "../api_types";
import { count } from "../format";
import { setQuery, usePlace } from "../router";

export interface Column<T> {
  name: string;
  /** Numbers stand at the right. */
  right?: boolean;
  /** 1: seen from tablets on; 2: on wide screens only. */
  from?: 1 | 2;
  /** The API's sort key, falling first. */
  sort?: string;
  /** The row's head: what it is about. */
  head?: boolean;
  cell: (row: T) => ComponentChildren;
}

interface Props<T> {
  caption: string;
  columns: Column<T>[];
  rows: T[];
  rowKey: (row: T) => string | number;
  showCaption?: boolean;
}

/** A table that scrolls sideways by itself where the screen is narrow. */
export function Table<T>({ caption, columns, rows, rowKey, showCaption = false }: Props<T>): JSX.Element {
  const box = useRef<HTMLDivElement>(null);
  const [scrolls, setScrolls] = useState(false);
  useEffect(() => {
    const element = box.current;
    if (element === null) return;
    const watch = new ResizeObserver(() => setScrolls(element.scrollWidth > element.clientWidth + 1));
    watch.observe(element);
    return () => watch.disconnect();
  }, []);
  // Only what scrolls takes the focus: so that the keyboard can scroll it, and is not stopped elsewhere.
  const scrolling = scrolls ? { tabIndex: 0, role: "region" as const, "aria-label": caption } : {};
  return (
    <div class="table" ref={box} {...scrolling}>
      <table>
        <caption class={showCaption ? "" : "unseen"}>{caption}</caption>
        <thead>
          <tr>
            {columns.map((column) => (
              <Head key={column.name} column={column} />
            ))}
          </tr>
        </thead>
        <tbody>
          {rows.map((row) => (
            <tr key={rowKey(row)}>
              {columns.map((column) =>
                column.head ? (
                  <th key={column.name} scope="row" class={classes(column)}>
                    {column.cell(row)}
                  </th>
                ) : (
                  <td key={column.name} class={classes(column)}>
                    {column.cell(row)}
                  </td>
                ),
              )}
            </tr>
          ))}
        </tbody>
      </table>
    </div>
  );
}

function classes<T>(column: Column<T>): string {
  return [column.right ? "right" : "", column.from ? `from-${column.from}` : ""].join(" ").trim();
}

function Head<T>({ column }: { column: Column<T> }): JSX.Element {
  const sort = usePlace().query.get("sort") ?? "device";
  if (column.sort === undefined) {
    return (
      <th scope="col" class={classes(column)}>
        {column.name}
      </th>
    );
  }
  const rising = sort === column.sort;
  const falling = sort === `-${column.sort}`;
  const first = column.sort === "device" ? column.sort : `-${column.sort}`;
  const other = column.sort === "device" ? `-${column.sort}` : column.sort;
  const next = sort === first ? other : first;
  return (
    <th scope="col" class={classes(column)} aria-sort={rising ? "ascending" : falling ? "descending" : "none"}>
      <button type="button" class="sort" onClick={() => setQuery({ sort: next === "device" ? null : next, cursor: null })}>
        {column.name}
        <span aria-hidden="true">{rising ? " ↑" : falling ? " ↓" : ""}</span>
      </button>
    </th>
  );
}

/** Steps through a list whose cursor is in the address: "back" of the browser goes back. */
export function Pager({ page, what, name = "cursor" }: { page: Page<unknown>; what: string; name?: string }): JSX.Element | null {
  const { query } = usePlace();
  const first = !query.has(name);
  const turn = (cursor: string | null): void => {
    setQuery({ [name]: cursor }, false);
    // The button may be gone on the next page: reading goes on at the top.
    if (name === "cursor") document.querySelector<HTMLElement>("main h1")?.focus();
  };
  if (first && page.next === null && page.total === null) return null;
  return (
    <nav class="pager" aria-label={`Pages of ${what}`}>
      <span class="muted">
        {page.total !== null ? `${count(page.total)} in all, ${count(page.items.length)} shown` : `${count(page.items.length)} shown`}
      </span>
      <span class="pager-steps">
        {!first && (
          <button type="button" onClick={() => turn(null)}>
            First page
          </button>
        )}
        {page.next !== null && (
          <button type="button" onClick={() => turn(page.next)}>
            Next page
          </button>
        )}
      </span>
    </nav>
  );
}
