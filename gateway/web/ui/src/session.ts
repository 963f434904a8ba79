// Who is logged in, what they may do, and what money is called: the same for the whole page.
import { createContext } from "preact";
import { useContext } from "preact/hooks";
import type { Overview, SessionState } from "./api_types";

export interface Site {
  session: SessionState;
  /** Token and services; null until the overview has been read once. */
  overview: Overview | null;
  /** Ask again who is logged in. */
  refresh: () => Promise<void>;
}

export const SiteContext = createContext<Site | null>(null);

/** Return the page's session and gateway. */
export function useSite(): Site {
  const site = useContext(SiteContext);
  if (site === null) throw new Error("no site around this part");
  return site;
}

/** Whether the caller may do what needs `scope`. */
export function useMay(scope: "operate" | "admin"): boolean {
  return useSite().session.scopes.includes(scope);
}

/** Decimals of the token. */
export function useDecimals(): number {
  return useContext(SiteContext)?.overview?.asset.decimals ?? 6;
}
