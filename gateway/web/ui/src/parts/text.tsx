// Small pieces of text: amounts, times, ids, states.
import type { ComponentChildren, JSX } from "preact";
import { useEffect, useState } from "preact/hooks";
import type { Amount } from "../api_types";
import { ago, isoTime, localTime, shortHex, tokens, words } from "../format";
import { useDecimals, useSite } from "../session";
import { Icon } from "./icons";
import { toast } from "./toast";

/** Base units as tokens with all decimals; what is below a cent stands back. */
export function Money({ of, unit = false }: { of: Amount | null; unit?: boolean }): JSX.Element {
  const decimals = useDecimals();
  const { overview } = useSite();
  const parts = of === null ? null : tokens(of, decimals);
  if (parts === null) return <span class="muted">–</span>;
  return (
    <>
      <span class="money">
        {parts.sign}
        {parts.whole}
        {parts.cents && `.${parts.cents}`}
        {parts.rest && <span class="rest">{parts.rest}</span>}
      </span>
      {unit && <span class="unit"> {overview?.asset.name ?? "tokens"}</span>}
    </>
  );
}

let ticking = 0;
const tickers = new Set<() => void>();

/** Return the time, Unix seconds, anew every second: one timer for all that count. */
export function useNow(): number {
  const [now, setNow] = useState(() => Date.now() / 1_000);
  useEffect(() => {
    const tick = (): void => setNow(Date.now() / 1_000);
    tickers.add(tick);
    if (tickers.size === 1) ticking = window.setInterval(() => tickers.forEach((each) => each()), 1_000);
    return () => {
      tickers.delete(tick);
      if (tickers.size === 0) clearInterval(ticking);
    };
  }, []);
  return now;
}

/** A moment in local time; hovering shows it in ISO 8601. */
export function When({ at, none = "never" }: { at: number | null | undefined; none?: string }): JSX.Element {
  if (at === null || at === undefined) return <span class="muted">{none}</span>;
  const iso = isoTime(at);
  return (
    <time dateTime={iso} title={iso}>
      {localTime(at)}
    </time>
  );
}

/** How long ago a moment was; hovering shows it in ISO 8601. */
export function Ago({ at, none = "never" }: { at: number | null | undefined; none?: string }): JSX.Element {
  const now = useNow();
  if (at === null || at === undefined) return <span class="muted">{none}</span>;
  const iso = isoTime(at);
  return (
    <time dateTime={iso} title={iso}>
      {ago(now - at)}
    </time>
  );
}

/** A long hex string, shortened, with a button that copies all of it. */
export function HexId({ of, what }: { of: string; what: string }): JSX.Element {
  return (
    <span class="hex">
      <code title={of}>{shortHex(of)}</code>
      <Copy text={of} what={what} />
    </span>
  );
}

/** A button that copies. Browsers allow it on https and on localhost only: elsewhere the text is selected instead. */
export function Copy({ text, what }: { text: string; what: string }): JSX.Element | null {
  if (!("clipboard" in navigator) || navigator.clipboard === undefined) return null;
  const copy = (): void => {
    navigator.clipboard.writeText(text).then(
      () => toast(`Copied ${what}.`),
      () => toast(`The browser did not allow copying ${what}.`, "warn"),
    );
  };
  return (
    <button type="button" class="bare" onClick={copy} aria-label={`Copy ${what}`} title={`Copy ${what}`}>
      <Icon name="copy" />
    </button>
  );
}

export type Tone = "ok" | "warn" | "fault" | "idle" | "accent";

const TONES: Record<string, Tone> = {
  ok: "ok",
  online: "ok",
  open: "ok",
  mined: "ok",
  ended: "ok",
  done: "ok",
  good: "ok",
  warning: "warn",
  refused: "warn",
  deposit_low: "warn",
  no_deposit: "warn",
  withdrawing: "warn",
  opening: "accent",
  closing: "accent",
  running: "accent",
  outstanding: "accent",
  fault: "fault",
  failed: "fault",
  owes: "fault",
};

/** A state as a word with a mark in front: never by colour alone. */
export function Pill({ state, children }: { state: string; children?: ComponentChildren }): JSX.Element {
  return <span class={`pill ${TONES[state] ?? "idle"}`}>{children ?? words(state)}</span>;
}

/** How full something is, 0 to 1, with the figure beside it. */
export function Fill({ share, label }: { share: number | null; label: string }): JSX.Element {
  if (share === null) return <span class="muted">–</span>;
  const whole = Math.max(0, Math.min(100, share * 100));
  return (
    <span class="fill">
      <meter min={0} max={100} low={75} high={90} optimum={0} value={whole} aria-label={label} />
      <span>{whole.toFixed(0)} %</span>
    </span>
  );
}

/** A sentence of the gateway, in which backticks mark what is typed. */
export function Marked({ text }: { text: string }): JSX.Element {
  return <>{text.split("`").map((part, index) => (index % 2 === 1 ? <code key={index}>{part}</code> : part))}</>;
}

/** Names and values, side by side. */
export function Facts({ children, wide = false }: { children: ComponentChildren; wide?: boolean }): JSX.Element {
  return <dl class={wide ? "facts wide-facts" : "facts"}>{children}</dl>;
}

export function Fact({ name, children }: { name: string; children: ComponentChildren }): JSX.Element {
  return (
    <div>
      <dt>{name}</dt>
      <dd>{children}</dd>
    </div>
  );
}
