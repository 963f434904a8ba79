// The tile that counts down to the next settlement, and says why it is when it is.
import type { JSX } from "preact";
import type { Tiles } from "../api_types";
import { duration } from "../format";
import { useNow } from "../parts/text";
import { Tile } from "./overview_tile";

const WHY: Record<string, string> = {
  schedule: "on schedule",
  closing: "earlier than planned: a channel is closing",
  withdrawal: "earlier than planned: a payer withdraws",
};

/** Counts down between two messages. */
export function NextSettlement({ tiles }: { tiles: Tiles }): JSX.Element {
  const now = useNow();
  const { in_s: inS, reason, running } = tiles.next_settlement;
  const left = inS === null ? null : Math.max(0, tiles.at + inS - now);
  const value = running ? "running now" : left === null ? "not planned" : left < 1 ? "due now" : duration(left);
  return (
    <Tile to="/settlement" name="Next settlement" value={value}>
      {WHY[reason] ?? reason}
    </Tile>
  );
}
