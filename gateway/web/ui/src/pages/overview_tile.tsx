// One figure that leads to where it comes from.
import type { ComponentChildren, JSX } from "preact";

export interface TileProps {
  to: string;
  name: string;
  value: ComponentChildren;
  children?: ComponentChildren;
  main?: boolean;
  tone?: "warn" | "fault" | undefined;
}

export function Tile({ to, name, value, children, main = false, tone }: TileProps): JSX.Element {
  return (
    <li class={["tile", main ? "main-tile" : "", tone ?? ""].join(" ").trim()}>
      <a href={to}>
        <span class="tile-name">{name}</span>
        <span class="tile-value">{value}</span>
        <span class="tile-note">{children}</span>
      </a>
    </li>
  );
}
