// The stream of server-sent events, shared by all parts of the page; polling where it does not get through.
import { useEffect, useRef, useState } from "preact/hooks";
import { ask } from "./api";
import type { BlockRow, CycleRow, Enrolment, Event as LogEvent, Overview, Tiles } from "./api_types";

/** One second of all charts. */
export interface SeriesPoint {
  t: number;
  payments_per_s: number;
  refused_per_s: number;
  p50_ms: number | null;
  p99_ms: number | null;
  exposure: string;
  charged_per_s: number;
}

export interface ReceiptSample {
  device: string;
  service: string;
  amount: string;
  at: number;
}

export interface Activity {
  events: LogEvent[];
  receipts: ReceiptSample[];
  payments: number;
  refused: number;
}

export interface LiveEvents {
  overview: Tiles;
  series: SeriesPoint;
  activity: Activity;
  cycle: CycleRow;
  block: { blocks: BlockRow[] };
  enrolment: Enrolment;
  repair: { codes: string[] };
  device: { device?: string; devices?: string[] };
  reset: unknown;
}

/** `live`: events come; `polling`: asked for every few seconds instead; `offline`: nothing answers. */
export type LiveState = "connecting" | "live" | "polling" | "offline";

type Name = keyof LiveEvents;
const NAMES: Name[] = ["overview", "series", "activity", "cycle", "block", "enrolment", "repair", "device", "reset"];
const POLL_MS = 5_000;
const RETRY_MS_FIRST = 2_000;
const RETRY_MS_MAX = 30_000;

class Live {
  state: LiveState = "connecting";
  private readonly listeners = new Map<Name | "state", Set<(data: never) => void>>();
  private source: EventSource | null = null;
  private retryMs = RETRY_MS_FIRST;
  private retry: number | undefined;
  private poll: number | undefined;
  private wanted = false;

  start(): void {
    if (this.wanted) return;
    this.wanted = true;
    this.connect();
  }

  stop(): void {
    this.wanted = false;
    this.source?.close();
    this.source = null;
    clearTimeout(this.retry);
    clearInterval(this.poll);
    this.poll = undefined;
  }

  on<N extends Name>(name: N, listener: (data: LiveEvents[N]) => void): () => void;
  on(name: "state", listener: (state: LiveState) => void): () => void;
  on(name: Name | "state", listener: (data: never) => void): () => void {
    const set = this.listeners.get(name) ?? new Set();
    this.listeners.set(name, set);
    set.add(listener);
    return () => set.delete(listener);
  }

  private connect(): void {
    const source = new EventSource("/api/v1/stream");
    this.source = source;
    for (const name of NAMES) {
      source.addEventListener(name, (message) => this.emit(name, JSON.parse((message as MessageEvent<string>).data)));
    }
    source.onopen = () => {
      this.retryMs = RETRY_MS_FIRST;
      clearInterval(this.poll);
      this.poll = undefined;
      if (this.state === "polling" || this.state === "offline") this.emit("reset", {});
      this.change("live");
    };
    source.onerror = () => {
      // The browser tries again by itself, with Last-Event-ID, unless the answer was a refusal (then it is closed).
      if (source.readyState === EventSource.CLOSED && this.source === source) {
        this.source = null;
        this.retry = window.setTimeout(() => this.wanted && this.connect(), this.retryMs);
        this.retryMs = Math.min(this.retryMs * 2, RETRY_MS_MAX);
      }
      this.fallBack();
    };
  }

  private fallBack(): void {
    if (this.poll !== undefined || !this.wanted) return;
    const once = async (): Promise<void> => {
      try {
        const overview = await ask<Overview>("/overview");
        this.change("polling");
        this.emit("overview", overview.tiles);
      } catch {
        this.change("offline"); // said in the page's head; the next turn asks again
      }
    };
    void once();
    this.poll = window.setInterval(() => void once(), POLL_MS);
  }

  private change(state: LiveState): void {
    if (state === this.state || !this.wanted) return;
    this.state = state;
    for (const listener of this.listeners.get("state") ?? []) (listener as (state: LiveState) => void)(state);
  }

  private emit<N extends Name>(name: N, data: LiveEvents[N]): void {
    for (const listener of this.listeners.get(name) ?? []) (listener as (data: LiveEvents[N]) => void)(data);
  }
}

export const live = new Live();

/** Call `listener` with every event of that name while the component is shown. */
export function useLive<N extends Name>(name: N, listener: (data: LiveEvents[N]) => void): void {
  const latest = useRef(listener);
  latest.current = listener;
  useEffect(() => live.on(name, (data: LiveEvents[N]) => latest.current(data)), [name]);
}

/** Return how the line to the gateway is. */
export function useLiveState(): LiveState {
  const [state, setState] = useState(live.state);
  useEffect(() => live.on("state", setState), []);
  return state;
}
