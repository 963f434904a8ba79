// The live figures for those who listen: in one sentence, twice a minute at most, and only when something changed.
import type { JSX } from "preact";
import { useEffect, useRef, useState } from "preact/hooks";
import type { Tiles } from "../api_types";
import { measure, plural, tokenText } from "../format";
import { useDecimals } from "../session";

const EVERY_MS = 30_000;

export function Announcer({ tiles }: { tiles: Tiles }): JSX.Element {
  const decimals = useDecimals();
  const [said, setSaid] = useState("");
  const latest = useRef(tiles);
  latest.current = tiles;
  useEffect(() => {
    const timer = setInterval(() => setSaid(words(latest.current, decimals)), EVERY_MS);
    return () => clearInterval(timer);
  }, [decimals]);
  return (
    <p class="unseen" role="status" aria-live="polite">
      {said}
    </p>
  );
}

function words(tiles: Tiles, decimals: number): string {
  const earned = tiles.earned_today === null ? "unknown" : tokenText(tiles.earned_today, decimals);
  return (
    `${measure(tiles.payments_per_s)} payments per second. Earned today ${earned}. ` +
    `Unsettled ${tokenText(tiles.exposure, decimals)}. ${plural(tiles.devices.online, "device")} online.`
  );
}
