// A share as a bar beside its figure.
import type { JSX } from "preact";

/** Draws `of` against `all`; the figure stands in its own column or label. */
export function Bars({ of, all }: { of: number; all: number }): JSX.Element {
  const share = all > 0 ? Math.max(0, Math.min(1, of / all)) : 0;
  return (
    <svg class="bar" viewBox="0 0 100 8" preserveAspectRatio="none" aria-hidden="true">
      <rect class="bar-back" width="100" height="8" rx="2" />
      <rect class="bar-front" width={share * 100} height="8" rx="2" />
    </svg>
  );
}
