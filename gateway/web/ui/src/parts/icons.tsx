// Line icons of our own, 20 by 20. They never carry meaning alone.
import type { JSX } from "preact";

const PATHS = {
  overview: "M3 11a7 7 0 0 1 14 0v4H3zM10 11l3-3",
  devices: "M4 5h12v10H4zM7 8h3M7 11h6M1.5 8H4M1.5 12H4M16 8h2.5M16 12h2.5",
  settlement: "M3 7h12l-3-3M17 13H5l3 3",
  layer: "M10 3 17 6.5 10 10 3 6.5zM3 10l7 3.5L17 10M3 13.5 10 17l7-3.5",
  log: "M5 3h10v14H5zM8 7h4M8 10h4M8 13h2",
  repairs: "M12 3a4.5 4.5 0 0 0-4 6.3L3 14.3 5.7 17l5-5A4.5 4.5 0 0 0 17 7.5l-2.7 2.7-2.5-2.5L14.5 5",
  enrolment: "M10 4v12M4 10h12",
  ledger: "M4 4h12v12H4zM10 4v12M4 8h12",
  access: "M7 13a3.5 3.5 0 1 1 3-5.2h7v3h-2v2h-3v-2h-2A3.5 3.5 0 0 1 7 13",
  menu: "M3 5h14M3 10h14M3 15h14",
  close: "M5 5l10 10M15 5 5 15",
  copy: "M7 7h9v9H7zM4 13V4h9",
  sun: "M10 6.5a3.5 3.5 0 1 0 0 7 3.5 3.5 0 0 0 0-7M10 2v2M10 16v2M2 10h2M16 10h2M4.3 4.3l1.4 1.4M14.3 14.3l1.4 1.4M15.7 4.3l-1.4 1.4M5.7 14.3l-1.4 1.4",
  moon: "M16 12A6.5 6.5 0 0 1 8 4a6.5 6.5 0 1 0 8 8",
  auto: "M10 3a7 7 0 1 0 0 14zM10 3a7 7 0 0 1 0 14",
  next: "M8 5l5 5-5 5",
  download: "M10 3v9M6 8.5l4 4 4-4M4 16.5h12",
  warn: "M10 3 18 16.5H2zM10 8v4M10 14.2v.1",
  ok: "M4 10.5 8 14.5 16 6",
  refresh: "M16 10a6 6 0 1 1-2-4.5M16 3v3.5h-3.5",
} as const;

export type IconName = keyof typeof PATHS;

export function Icon({ name }: { name: IconName }): JSX.Element {
  return (
    <svg class="icon" viewBox="0 0 20 20" aria-hidden="true" focusable="false">
      <path d={PATHS[name]} />
    </svg>
  );
}

/** The mark: a gauge that is a gate. */
export function Logo(): JSX.Element {
  return (
    <svg class="logo" viewBox="0 0 32 32" aria-hidden="true" focusable="false">
      <rect width="32" height="32" rx="8" />
      <path d="M7 24v-6a9 9 0 0 1 18 0v6M16 18.5 20.6 13M12 24h8" />
      <circle cx="16" cy="18.5" r="2.3" />
    </svg>
  );
}
