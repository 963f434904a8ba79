// Logging in; and what to do where nobody can yet.
import type { JSX } from "preact";
import { useState } from "preact/hooks";
import { ask } from "../api";
import type { SessionState } from "../api_types";
import { ApiError } from "../api";
import { Field } from "../parts/form";
import { PageFrame } from "../parts/page";
import { ActionError } from "../parts/states";
import { go, usePlace } from "../router";
import { useSite } from "../session";

export function Login(): JSX.Element {
  const { session, refresh } = useSite();
  const { path } = usePlace();
  const [name, setName] = useState("");
  const [password, setPassword] = useState("");
  const [busy, setBusy] = useState(false);
  const [error, setError] = useState<ApiError | null>(null);
  if (session.via !== "nobody") {
    return (
      <PageFrame title="You are logged in">
        <a href="/">To the overview</a>
      </PageFrame>
    );
  }
  const enter = async (event: Event): Promise<void> => {
    event.preventDefault();
    setBusy(true);
    setError(null);
    try {
      await ask<SessionState>("/session", { method: "POST", body: { name, password } });
      if (path === "/login") go("/", true);
      await refresh();
    } catch (thrown) {
      setPassword("");
      setBusy(false);
      setError(thrown instanceof ApiError ? thrown : new ApiError(0, "unreadable", "The answer could not be read."));
    }
  };
  return (
    <div class="gate">
      <PageFrame title="Log in" lead={session.gateway === "" ? undefined : `Gateway ${session.gateway}`}>
        {session.setup_needed && (
          <div class="notice warn">
            <div>
              <p>
                <strong>Nobody may log in yet.</strong>
              </p>
              <p>
                The first operator is made with the link that the gateway printed when it started. On the gateway’s own
                machine, <code>metergate operator add NAME</code> does the same.
              </p>
            </div>
          </div>
        )}
        <form class="card" onSubmit={(event) => void enter(event)}>
          <Field label="Name" value={name} onValue={setName} autocomplete="username" required />
          <Field
            label="Password"
            type="password"
            value={password}
            onValue={setPassword}
            autocomplete="current-password"
            required
          />
          <ActionError error={error} />
          <button type="submit" class="primary" disabled={busy}>
            {busy ? "Checking…" : "Log in"}
          </button>
        </form>
      </PageFrame>
    </div>
  );
}
