// Reading from the API inside components: the last answer stays on the page while a newer one is fetched.
import { useCallback, useEffect, useRef, useState } from "preact/hooks";
import { ApiError, UNREACHABLE, ask, newKey, type Ask } from "./api";
import { useLive } from "./live";

export interface Reading<T> {
  data: T | null;
  error: ApiError | null;
  /** Which path `data` came from: of another one it is stale. */
  path: string | null;
  loading: boolean;
  reload: () => void;
  set: (data: T) => void;
}

/** Read `path` (null: nothing), again when it changes, every `everyMs` while the page is seen, and after a gap. */
export function useApi<T>(path: string | null, everyMs = 0): Reading<T> {
  const [state, setState] = useState<{ data: T | null; error: ApiError | null; path: string | null }>({
    data: null,
    error: null,
    path: null,
  });
  const [loading, setLoading] = useState(path !== null);
  const running = useRef<AbortController | null>(null);
  const load = useCallback(async () => {
    running.current?.abort();
    if (path === null) return;
    const controller = new AbortController();
    running.current = controller;
    setLoading(true);
    try {
      const data = await ask<T>(path, { signal: controller.signal });
      if (!controller.signal.aborted) setState({ data, error: null, path });
    } catch (error) {
      if (controller.signal.aborted) return;
      const told = error instanceof ApiError ? error : new ApiError(0, "unreadable", "The answer could not be read.");
      setState((before) => ({ data: before.path === path ? before.data : null, error: told, path }));
    }
    if (!controller.signal.aborted) setLoading(false);
  }, [path]);
  useEffect(() => {
    void load();
    return () => running.current?.abort();
  }, [load]);
  useEffect(() => {
    if (everyMs === 0) return;
    const timer = setInterval(() => document.visibilityState === "visible" && void load(), everyMs);
    return () => clearInterval(timer);
  }, [load, everyMs]);
  useLive("reset", () => void load());
  const set = useCallback((data: T) => setState({ data, error: null, path }), [path]);
  return { ...state, loading, reload: () => void load(), set };
}

export interface Action {
  busy: boolean;
  error: ApiError | null;
  clear: () => void;
  run: <T>(path: string, asked: Ask) => Promise<T | null>;
}

/** An action with its progress and error. A try that got no answer is repeated under the same key: it happens once. */
export function useAction(): Action {
  const [busy, setBusy] = useState(false);
  const [error, setError] = useState<ApiError | null>(null);
  const unanswered = useRef<{ of: string; key: string } | null>(null);
  const run = useCallback(async <T>(path: string, asked: Ask): Promise<T | null> => {
    const of = JSON.stringify([path, asked.method, asked.body]);
    const key = unanswered.current?.of === of ? unanswered.current.key : newKey();
    unanswered.current = { of, key };
    setBusy(true);
    setError(null);
    try {
      const answer = await ask<T>(path, { ...asked, key });
      unanswered.current = null;
      return answer ?? ({} as T);
    } catch (thrown) {
      const told = thrown instanceof ApiError ? thrown : new ApiError(0, "unreadable", "The answer could not be read.");
      if (told.code !== UNREACHABLE) unanswered.current = null;
      setError(told);
      return null;
    } finally {
      setBusy(false);
    }
  }, []);
  return { busy, error, clear: () => setError(null), run };
}
