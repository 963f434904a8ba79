// Requests to the gateway's API. Nothing else is ever asked: the security policy allows no other host.
import type { SessionState } from "./api_types";
import { sentence } from "./format";

/** An answer that is not a success: its stable code, its sentence, and when to ask again. */
export class ApiError extends Error {
  constructor(
    readonly status: number,
    readonly code: string,
    message: string,
    readonly retryAfter: number | null = null,
  ) {
    super(message);
  }
}

/** The gateway could not be reached at all. */
export const UNREACHABLE = "unreachable";

const BASE = "/api/v1";
let csrf = "";
let onLoginNeeded: () => void = () => {};

/** Remember who is logged in: actions of a session carry its token. */
export function useSessionToken(session: SessionState): void {
  csrf = session.csrf;
}

/** Call `handler` when an answer says that the login has ended. */
export function whenLoginNeeded(handler: () => void): void {
  onLoginNeeded = handler;
}

/** Return a new idempotency key. (crypto.randomUUID is missing on plain http to another machine.) */
export function newKey(): string {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

export interface Ask {
  method?: "GET" | "POST" | "PATCH" | "DELETE";
  body?: unknown;
  key?: string;
  signal?: AbortSignal;
}

/** Send one request and return its decoded answer; null for an empty one. Throws ApiError. */
export async function ask<T>(path: string, { method = "GET", body, key, signal }: Ask = {}): Promise<T> {
  const headers: Record<string, string> = { accept: "application/json" };
  if (body !== undefined) headers["content-type"] = "application/json";
  if (method !== "GET" && csrf !== "") headers["x-csrf-token"] = csrf;
  if (key !== undefined) headers["idempotency-key"] = key;
  const init: RequestInit = { method, headers, credentials: "same-origin", cache: "no-store" };
  if (body !== undefined) init.body = JSON.stringify(body);
  if (signal !== undefined) init.signal = signal;
  let response: Response;
  try {
    response = await fetch(BASE + path, init);
  } catch (error) {
    if (signal?.aborted) throw error;
    throw new ApiError(0, UNREACHABLE, "The gateway does not answer. It may be restarting, or the line is down.");
  }
  if (!response.ok) throw await refusal(response, path);
  return (response.status === 204 ? null : await response.json()) as T;
}

async function refusal(response: Response, path: string): Promise<ApiError> {
  let code = `http_${response.status}`;
  let message = `The gateway answered ${response.status}.`;
  try {
    const told = (await response.json()) as { error?: { code?: unknown; message?: unknown } };
    if (typeof told.error?.code === "string") code = told.error.code;
    if (typeof told.error?.message === "string") message = sentence(told.error.message);
  } catch {
    // A proxy's page, or cut off: the status alone has to do.
  }
  if (code === "login_needed" && path !== "/session") onLoginNeeded();
  const wait = Number(response.headers.get("retry-after"));
  return new ApiError(response.status, code, message, Number.isFinite(wait) && wait > 0 ? wait : null);
}

/** Return `path` with those of `query` that are not empty. */
export function withQuery(path: string, query: Record<string, string | null | undefined>): string {
  const search = new URLSearchParams();
  for (const [name, value] of Object.entries(query)) if (value) search.set(name, value);
  const text = search.toString();
  return text === "" ? path : `${path}?${text}`;
}
