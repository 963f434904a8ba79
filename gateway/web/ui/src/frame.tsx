// What is around every page: name, navigation, health, the line's state, theme, who is logged in.
import type { ComponentChildren, JSX } from "preact";
import { useEffect, useState } from "preact/hooks";
import { ask } from "./api";
import type { Health } from "./api_types";
import { useLive, useLiveState } from "./live";
import { Icon, Logo, type IconName } from "./parts/icons";
import { toast, Toasts } from "./parts/toast";
import { go, usePlace } from "./router";
import { useSite } from "./session";

const LINKS: { to: string; name: string; icon: IconName; pages: string[]; scope?: string }[] = [
  { to: "/", name: "Overview", icon: "overview", pages: ["overview"] },
  { to: "/devices", name: "Devices", icon: "devices", pages: ["devices", "device"] },
  { to: "/settlement", name: "Settlement", icon: "settlement", pages: ["settlement", "cycle"] },
  { to: "/layer", name: "Execution layer", icon: "layer", pages: ["layer"] },
  { to: "/events", name: "Log", icon: "log", pages: ["events"] },
  { to: "/repairs", name: "Repairs", icon: "repairs", pages: ["repairs"] },
  { to: "/enrolment", name: "Enrolment", icon: "enrolment", pages: ["enrolment"] },
  { to: "/ledger", name: "Books", icon: "ledger", pages: ["ledger"] },
  { to: "/access", name: "Access", icon: "access", pages: ["access"], scope: "admin" },
];

export function Frame({ bare, page, children }: { bare: boolean; page: string; children: ComponentChildren }): JSX.Element {
  const { session } = useSite();
  const { path } = usePlace();
  const [open, setOpen] = useState(false);
  useEffect(() => setOpen(false), [path]);
  useEffect(() => {
    if (!open) return;
    const close = (event: KeyboardEvent): void => {
      if (event.key !== "Escape") return;
      setOpen(false);
      document.getElementById("menu")?.focus();
    };
    addEventListener("keydown", close);
    return () => removeEventListener("keydown", close);
  }, [open]);
  const links = LINKS.filter((link) => link.scope === undefined || session.scopes.includes(link.scope));
  return (
    <div class={bare ? "frame bare-frame" : "frame"}>
      <a class="skip" href="#main" onClick={skip}>
        Skip to the content
      </a>
      <header class="top">
        <a class="brand" href="/" aria-label="Metergate, overview">
          <Logo />
          <span>Metergate</span>
        </a>
        {session.gateway !== "" && <span class="gateway-name">{session.gateway}</span>}
        <span class="stretch" />
        {!bare && <HealthBadge />}
        {!bare && <LineState />}
        <ThemeButton />
        {!bare && <Who />}
        {!bare && (
          <button type="button" id="menu" class="bare menu" aria-expanded={open} aria-controls="nav" onClick={() => setOpen(!open)}>
            <Icon name={open ? "close" : "menu"} />
            <span class="unseen">Menu</span>
          </button>
        )}
      </header>
      {!bare && (
        <nav id="nav" class={open ? "side open" : "side"} aria-label="Pages">
          <ul>
            {links.map((link) => (
              <li key={link.to}>
                <a href={link.to} {...(link.pages.includes(page) ? { "aria-current": "page" as const } : {})}>
                  <Icon name={link.icon} />
                  {link.name}
                </a>
              </li>
            ))}
          </ul>
        </nav>
      )}
      <main id="main" tabIndex={-1}>
        {session.demo && <DemoBanner relaxed={session.relaxed} />}
        {children}
      </main>
      <Toasts />
    </div>
  );
}

function skip(event: Event): void {
  event.preventDefault();
  document.getElementById("main")?.focus();
}

/** Says that this is a demo, and what it does not ask for. */
function DemoBanner({ relaxed }: { relaxed: string[] }): JSX.Element {
  return (
    <aside class="demo" aria-label="About this demo">
      <details>
        <summary>
          <strong>Demo</strong> with simulated devices and test money. What it relaxes
        </summary>
        <ul>
          {relaxed.map((each) => (
            <li key={each}>{each}</li>
          ))}
        </ul>
      </details>
    </aside>
  );
}

const HEALTH: Record<string, string> = { ok: "All is well", warning: "Needs attention", fault: "Fault" };

function HealthBadge(): JSX.Element | null {
  const { overview } = useSite();
  const [latest, setLatest] = useState<Health | null>(null);
  useLive("overview", (tiles) => {
    // The same health again is no news, neither for the page nor for who listens to it.
    setLatest((before) => (JSON.stringify(before) === JSON.stringify(tiles.health) ? before : tiles.health));
  });
  const health = latest ?? overview?.tiles.health;
  if (!health) return null;
  const problems = health.problems.length;
  return (
    <a class={`badge ${health.state}`} href="/repairs" title={health.problems.map((each) => each.words).join("\n")}>
      <Icon name={health.state === "ok" ? "ok" : "warn"} />
      <span class="badge-words" role="status">
        {HEALTH[health.state] ?? health.state}
        {problems > 0 && ` (${problems})`}
      </span>
    </a>
  );
}

const LINE: Record<string, [string, string]> = {
  connecting: ["idle", "Connecting"],
  live: ["ok", "Live"],
  polling: ["warn", "Every 5 s"],
  offline: ["fault", "No answer"],
};

function LineState(): JSX.Element {
  const state = useLiveState();
  const [tone, said] = LINE[state] ?? ["idle", state];
  return (
    <span class={`line ${tone}`} role="status" title="How this page gets its figures">
      <span class="dot" aria-hidden="true" />
      <span class="line-words">{said}</span>
    </span>
  );
}

const THEMES: { choice: string; name: string; icon: IconName }[] = [
  { choice: "auto", name: "as the system has it", icon: "auto" },
  { choice: "light", name: "light", icon: "sun" },
  { choice: "dark", name: "dark", icon: "moon" },
];

/** Steps through system, light and dark. */
function ThemeButton(): JSX.Element {
  const [choice, setChoice] = useState(document.documentElement.dataset["choice"] ?? "auto");
  const index = Math.max(0, THEMES.findIndex((each) => each.choice === choice));
  const now = THEMES[index] ?? THEMES[0];
  const next = THEMES[(index + 1) % THEMES.length] ?? THEMES[0];
  const step = (): void => {
    const wanted = next?.choice ?? "auto";
    document.documentElement.dataset["choice"] = wanted;
    try {
      localStorage.setItem("metergate-theme", wanted);
    } catch {
      // Storage is blocked: the choice holds until the page is left.
    }
    dispatchEvent(new Event("metergate-choice"));
    setChoice(wanted);
  };
  return (
    <button type="button" class="bare theme" onClick={step} title={`Colours: ${now?.name}. Next: ${next?.name}`}>
      <Icon name={now?.icon ?? "auto"} />
      <span class="unseen">{`Colours: ${now?.name}. Change to ${next?.name}`}</span>
    </button>
  );
}

function Who(): JSX.Element | null {
  const { session, refresh } = useSite();
  if (session.via !== "session") return null;
  const leave = async (): Promise<void> => {
    try {
      await ask("/session", { method: "DELETE" });
      go("/", true);
    } catch {
      toast("Logging out did not work: the gateway gave no answer.", "warn");
    }
    await refresh();
  };
  return (
    <span class="who">
      <span class="who-name">{session.name}</span>
      <button type="button" class="bare" onClick={() => void leave()}>
        Log out
      </button>
    </span>
  );
}
