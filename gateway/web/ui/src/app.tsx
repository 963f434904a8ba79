// Who asks decides what is shown: set-up, login, or the pages.
import type { ComponentType, JSX } from "preact";
import { useCallback, useEffect, useMemo, useState } from "preact/hooks";
import { ApiError, ask, useSessionToken, whenLoginNeeded } from "./api";
import type { Overview as OverviewShape, SessionState } from "./api_types";
import { Frame } from "./frame";
import { live } from "./live";
import { Overview } from "./pages/overview";
import { Failure, Loading } from "./parts/states";
import { usePlace } from "./router";
import { SiteContext, type Site } from "./session";

export interface PageProps {
  /** What follows the page's own path: a device, a cycle's number. */
  rest: string;
}

type Page = ComponentType<PageProps>;
const PAGES: Record<string, () => Promise<Page>> = {
  devices: async () => (await import("./pages/devices")).Devices,
  device: async () => (await import("./pages/device")).Device,
  settlement: async () => (await import("./pages/settlement")).Settlement,
  cycle: async () => (await import("./pages/cycle")).Cycle,
  layer: async () => (await import("./pages/layer")).Layer,
  events: async () => (await import("./pages/events")).Events,
  repairs: async () => (await import("./pages/repairs")).Repairs,
  enrolment: async () => (await import("./pages/enrolment")).Enrolment,
  ledger: async () => (await import("./pages/ledger")).Ledger,
  access: async () => (await import("./pages/access")).Access,
  login: async () => (await import("./pages/login")).Login,
  setup: async () => (await import("./pages/setup")).Setup,
  missing: async () => (await import("./pages/missing")).Missing,
};
const loaded = new Map<string, Page>([["overview", Overview]]);

/** Return which page an address means. */
export function pageOf(path: string): { name: string; rest: string } {
  const [first = "", ...others] = path.split("/").slice(1);
  const rest = decodeURIComponent(others.join("/"));
  if (first === "") return { name: "overview", rest };
  if (first === "devices" && rest !== "") return { name: "device", rest };
  if (first === "settlement" && rest !== "") return { name: "cycle", rest };
  return { name: first in PAGES && rest === "" ? first : "missing", rest };
}

export function App(): JSX.Element {
  const { path } = usePlace();
  const [session, setSession] = useState<SessionState | null>(null);
  const [overview, setOverview] = useState<OverviewShape | null>(null);
  const [error, setError] = useState<ApiError | null>(null);
  const refresh = useCallback(async () => {
    try {
      const state = await ask<SessionState>("/session");
      useSessionToken(state);
      setSession(state);
      setError(null);
    } catch (thrown) {
      setError(thrown instanceof ApiError ? thrown : new ApiError(0, "unreadable", "The answer could not be read."));
    }
  }, []);
  useEffect(() => {
    whenLoginNeeded(() => void refresh());
    void refresh();
  }, [refresh]);
  const known = session !== null && session.via !== "nobody";
  useEffect(() => {
    if (!known) return;
    live.start();
    ask<OverviewShape>("/overview").then(setOverview, () => setOverview(null)); // the page itself shows the error
    return () => live.stop();
  }, [known]);
  const site = useMemo<Site | null>(() => session && { session, overview, refresh }, [session, overview, refresh]);
  if (site === null) return error ? <Stranded error={error} again={() => void refresh()} /> : <Loading lines={6} />;
  const asked = pageOf(path);
  const name = asked.name === "setup" ? "setup" : known ? asked.name : "login";
  return (
    <SiteContext.Provider value={site}>
      <Frame bare={!known || name === "setup"} page={name}>
        <Shown key={`${name} ${path}`} name={name} rest={asked.rest} />
      </Frame>
    </SiteContext.Provider>
  );
}

// The browser itself says where one has arrived when the page is opened.
let arrived = false;

/** A page, loaded when it is first wanted. After going to another one, its title takes the focus. */
function Shown({ name, rest }: { name: string; rest: string }): JSX.Element {
  const [Page, setPage] = useState<Page | null>(() => loaded.get(name) ?? null);
  const [failed, setFailed] = useState(false);
  useEffect(() => {
    if (loaded.has(name)) return;
    const load = PAGES[name];
    load?.().then(
      (page) => {
        loaded.set(name, page);
        setPage(() => page);
      },
      () => setFailed(true),
    );
  }, [name]);
  useEffect(() => {
    if (Page === null) return;
    if (arrived) {
      scrollTo(0, 0);
      document.querySelector<HTMLElement>("main h1")?.focus({ preventScroll: true });
    }
    arrived = true;
  }, [Page]);
  if (failed) return <Outdated />;
  return Page === null ? <Loading lines={6} /> : <Page rest={rest} />;
}

/** The files of this page are gone: the gateway has another version by now. */
function Outdated(): JSX.Element {
  return (
    <div class="notice warn" role="alert">
      <div>
        <p>
          <strong>This part of the page could not be loaded.</strong>
        </p>
        <p>The gateway may have been updated, or the line is down. Loading the page anew brings the current version.</p>
        <button type="button" onClick={() => location.reload()}>
          Load anew
        </button>
      </div>
    </div>
  );
}

function Stranded({ error, again }: { error: ApiError; again: () => void }): JSX.Element {
  return (
    <main class="stranded">
      <h1>Metergate</h1>
      <Failure error={error} again={again} />
    </main>
  );
}
