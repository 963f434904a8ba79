// The first run: the code of the printed link makes the first operator.
import type { JSX } from "preact";
import { useEffect, useState } from "preact/hooks";
import { ApiError, ask } from "../api";
import type { SessionState } from "../api_types";
import { Field } from "../parts/form";
import { PageFrame } from "../parts/page";
import { ActionError, Empty } from "../parts/states";
import { go } from "../router";
import { useSite } from "../session";

const PASSWORD_MIN = 10;

export function Setup(): JSX.Element {
  const { session, refresh } = useSite();
  const [code, setCode] = useState(() => decodeURIComponent(location.hash.slice(1)));
  const [name, setName] = useState("");
  const [password, setPassword] = useState("");
  const [again, setAgain] = useState("");
  const [busy, setBusy] = useState(false);
  const [error, setError] = useState<ApiError | null>(null);
  // The code opens the gateway once: it does not stay in the address or in the browser's history.
  useEffect(() => history.replaceState(history.state, "", location.pathname), []);
  if (!session.setup_needed) {
    return (
      <div class="gate">
        <PageFrame title="Set up">
          <Empty title="This gateway has an operator already.">
            <a href="/">{session.via === "nobody" ? "Log in" : "To the overview"}</a>. If the password is lost,{" "}
            <code>metergate operator reset NAME</code> on the gateway’s machine sets a new one.
          </Empty>
        </PageFrame>
      </div>
    );
  }
  const make = async (event: Event): Promise<void> => {
    event.preventDefault();
    if (password !== again) {
      setError(new ApiError(0, "differs", "The two passwords are not the same."));
      return;
    }
    setBusy(true);
    setError(null);
    try {
      await ask<SessionState>("/setup", { method: "POST", body: { code: code.trim(), name, password } });
      await refresh();
      go("/", true);
    } catch (thrown) {
      setBusy(false);
      setError(thrown instanceof ApiError ? thrown : new ApiError(0, "unreadable", "The answer could not be read."));
    }
  };
  return (
    <div class="gate">
      <PageFrame title="Set up" lead="Make the first operator. The link works once.">
        <form class="card" onSubmit={(event) => void make(event)}>
          <Field
            label="Code"
            value={code}
            onValue={setCode}
            mono
            required
            note="From the link that the gateway printed at its start; filled in when you opened that link."
          />
          <Field label="Your name" value={name} onValue={setName} autocomplete="username" required maxLength={64} />
          <Field
            label="Password"
            type="password"
            value={password}
            onValue={setPassword}
            autocomplete="new-password"
            required
            minLength={PASSWORD_MIN}
            note={`At least ${PASSWORD_MIN} characters. A few random words are good, and easy to type on a phone.`}
          />
          <Field
            label="Password again"
            type="password"
            value={again}
            onValue={setAgain}
            autocomplete="new-password"
            required
          />
          <ActionError error={error} />
          <button type="submit" class="primary" disabled={busy}>
            {busy ? "Setting up…" : "Make the operator and log in"}
          </button>
        </form>
      </PageFrame>
    </div>
  );
}
