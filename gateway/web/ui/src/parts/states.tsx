// What a page shows while it has nothing to show: loading, an error, or really nothing.
import type { ComponentChildren, JSX } from "preact";
import type { ApiError } from "../api";
import { UNREACHABLE } from "../api";
import type { Reading } from "../fetching";
import { Icon } from "./icons";

/** Grey lines in the place of what comes. */
export function Loading({ lines = 4, what = "Loading" }: { lines?: number; what?: string }): JSX.Element {
  return (
    <div class="loading" role="status">
      <span class="unseen">{what}…</span>
      {Array.from({ length: lines }, (_, index) => (
        <span key={index} class="bone" aria-hidden="true" />
      ))}
    </div>
  );
}

/** Nothing there, why, and what brings something. */
export function Empty({ title, children }: { title: string; children?: ComponentChildren }): JSX.Element {
  return (
    <div class="empty">
      <p class="empty-title">{title}</p>
      {children && <p>{children}</p>}
    </div>
  );
}

/** What went wrong, and a way on. */
export function Failure({ error, again }: { error: ApiError; again?: () => void }): JSX.Element {
  return (
    <div class="notice fault" role="alert">
      <Icon name="warn" />
      <div>
        <p>
          <strong>{error.code === UNREACHABLE ? "No answer" : "That did not work"}</strong>
        </p>
        <p>{error.message}</p>
        {error.retryAfter !== null && <p>Try again in {error.retryAfter} s.</p>}
        <p class="muted small">Code: {error.code}</p>
        {again && (
          <button type="button" onClick={again}>
            Try again
          </button>
        )}
      </div>
    </div>
  );
}

/** An error of an action, in one line. */
export function ActionError({ error }: { error: ApiError | null }): JSX.Element | null {
  if (error === null) return null;
  return (
    <p class="action-error" role="alert">
      <Icon name="warn" /> {error.message}
      {error.retryAfter !== null && ` Try again in ${error.retryAfter} s.`}
    </p>
  );
}

/** Show `of`'s answer with `children`, or what there is instead; an older answer stays under a newer error. */
export function Shown<T>(asked: { of: Reading<T>; lines?: number; children: (data: T) => ComponentChildren }): JSX.Element {
  const { of, lines, children } = asked;
  return (
    <>
      {of.error && <Failure error={of.error} again={of.reload} />}
      {of.data !== null ? children(of.data) : !of.error && <Loading lines={lines ?? 4} />}
    </>
  );
}
