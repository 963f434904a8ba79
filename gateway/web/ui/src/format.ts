// Numbers and times as people read them. Amounts never pass through a float.
import type { Amount } from "./api_types";

const NUMBER = new Intl.NumberFormat("en-US");

/** An amount in tokens, split where the eye may stop: whole tokens and cents, then the rest. */
export interface Tokens {
  sign: "" | "−";
  whole: string;
  cents: string;
  rest: string;
}

/** Split base units into tokens, exactly. Null for what is no integer. */
export function tokens(amount: Amount, decimals: number): Tokens | null {
  if (!/^-?\d+$/.test(amount)) return null;
  const value = BigInt(amount);
  const digits = (value < 0n ? -value : value).toString().padStart(decimals + 1, "0");
  const whole = digits.slice(0, digits.length - decimals);
  const fraction = decimals === 0 ? "" : digits.slice(-decimals);
  return { sign: value < 0n ? "−" : "", whole: grouped(whole), cents: fraction.slice(0, 2), rest: fraction.slice(2) };
}

/** Base units as tokens in one text, all decimals. */
export function tokenText(amount: Amount, decimals = 6): string {
  const parts = tokens(amount, decimals);
  if (parts === null) return "–";
  const fraction = parts.cents + parts.rest;
  return parts.sign + parts.whole + (fraction === "" ? "" : `.${fraction}`);
}

function grouped(digits: string): string {
  return digits.replace(/\B(?=(\d{3})+$)/g, ",");
}

/** Wei as coins with at most six decimals, rounded down; what is less than that says so. */
export function coinText(wei: Amount): string {
  const value = BigInt(wei);
  const micro = value / 10n ** 12n;
  if (micro === 0n && value !== 0n) return value < 0n ? "−<0.000001" : "<0.000001";
  return tokenText(micro.toString(), 6).replace(/\.?0+$/, "");
}

/** Wei as gwei. */
export function gweiText(wei: Amount): string {
  return tokenText((BigInt(wei) / 1_000n).toString(), 6).replace(/\.?0+$/, "");
}

/** A count with its thousands apart. */
export function count(value: number): string {
  return NUMBER.format(value);
}

/** How many transactions coins pay for: beyond a million it does not matter how many. */
export function enough(transactions: number): string {
  return transactions > 1_000_000 ? "over a million transactions" : plural(transactions, "transaction");
}

/** How long ago something was seen, by the gateway's clock. */
export function seen(lagS: number): string {
  return lagS < 2 ? "seen just now" : `seen ${duration(lagS)} ago`;
}

/** A measured value with about three digits. */
export function measure(value: number | null | undefined): string {
  if (value === null || value === undefined || !Number.isFinite(value)) return "–";
  const size = Math.abs(value);
  const digits = size === 0 || size >= 100 ? 0 : size >= 10 ? 1 : size >= 1 ? 2 : 3;
  return value.toLocaleString("en-US", { minimumFractionDigits: 0, maximumFractionDigits: digits });
}

/** Work over elapsed time. Blocks too small to be shared out are executed one after the other: that is no gain. */
export function speedUp(ratio: number | null): string {
  return ratio === null ? "–" : ratio < 1 ? "none" : `${measure(ratio)}×`;
}

/** A share of one as per cent. */
export function percent(share: number): string {
  return `${(share * 100).toFixed(share > 0 && share < 0.1 ? 1 : 0)} %`;
}

/** Seconds as people say them: 45 s, 4 min 05 s, 2 h 10 min, 3 days. */
export function duration(seconds: number): string {
  const s = Math.max(0, Math.round(seconds));
  if (s < 60) return `${s} s`;
  if (s < 3_600) return `${Math.floor(s / 60)} min ${String(s % 60).padStart(2, "0")} s`;
  if (s < 86_400) return `${Math.floor(s / 3_600)} h ${String(Math.floor((s % 3_600) / 60)).padStart(2, "0")} min`;
  const days = Math.floor(s / 86_400);
  return days === 1 ? "1 day" : `${days} days`;
}

/** How long ago, in its largest unit. */
export function ago(seconds: number): string {
  if (seconds < 2) return "just now";
  if (seconds < 60) return `${Math.floor(seconds)} s ago`;
  if (seconds < 3_600) return `${Math.floor(seconds / 60)} min ago`;
  if (seconds < 86_400) return `${Math.floor(seconds / 3_600)} h ago`;
  const days = Math.floor(seconds / 86_400);
  return days === 1 ? "1 day ago" : `${days} days ago`;
}

const CLOCK = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit", second: "2-digit", hour12: false });
const SHORT = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit", hour12: false });
const DAY = new Intl.DateTimeFormat(undefined, { day: "numeric", month: "short" });
const YEAR = new Intl.DateTimeFormat(undefined, { day: "numeric", month: "short", year: "numeric" });

/** Local time of day, with the day when it is not today. */
export function localTime(at: number, now = Date.now() / 1_000): string {
  const when = new Date(at * 1_000);
  const today = new Date(now * 1_000);
  if (when.toDateString() === today.toDateString()) return CLOCK.format(when);
  const day = when.getFullYear() === today.getFullYear() ? DAY : YEAR;
  return `${day.format(when)}, ${CLOCK.format(when)}`;
}

/** Local time for a chart's axis. */
export function axisTime(at: number, withSeconds: boolean): string {
  return (withSeconds ? CLOCK : SHORT).format(new Date(at * 1_000));
}

/** The exact moment, ISO 8601. */
export function isoTime(at: number): string {
  const when = new Date(at * 1_000);
  return Number.isNaN(when.getTime()) ? "" : when.toISOString().replace(".000Z", "Z");
}

/** The middle of a long hex string left out. */
export function shortHex(hex: string): string {
  return hex.length > 14 ? `${hex.slice(0, 8)}…${hex.slice(-4)}` : hex;
}

/** 1 device, 2 devices. */
export function plural(number: number, one: string, many = `${one}s`): string {
  return `${count(number)} ${number === 1 ? one : many}`;
}

const WORDS: Record<string, string> = {
  online: "online",
  quiet: "quiet",
  never: "not heard of",
  unknown: "unknown",
  refused: "refused",
  no_deposit: "no deposit",
  deposit_low: "deposit low",
  withdrawing: "withdrawing",
  owes: "owes",
  closed: "closed",
};

/** A code of the API in words. */
export function words(code: string): string {
  return WORDS[code] ?? code.replaceAll("_", " ");
}

/** Begin with a capital and end with a full stop. */
export function sentence(text: string): string {
  const begun = text.charAt(0).toUpperCase() + text.slice(1);
  return /[.!?…]$/.test(begun) ? begun : `${begun}.`;
}
