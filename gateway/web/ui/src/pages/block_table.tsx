// Blocks with what their execution took.
import type { JSX } from "preact";
import type { BlockRow, LaneLoad } from "../api_types";
import { count, measure, plural, speedUp } from "../format";
import { Table } from "../parts/table";
import { When } from "../parts/text";

export function BlockTable({ blocks }: { blocks: BlockRow[] }): JSX.Element {
  const told = blocks.some((block) => block.executed !== null);
  return (
    <Table
      caption="Blocks, newest first"
      rows={blocks}
      rowKey={(block) => block.number}
      columns={[
        { name: "Block", head: true, cell: (block) => count(block.number) },
        { name: "Time", cell: (block) => <When at={block.time} /> },
        { name: "Transactions", right: true, cell: (block) => count(block.transactions) },
        ...(told
          ? [
              { name: "Executed", right: true, from: 1 as const, cell: (block: BlockRow) => figure(block.executed) },
              { name: "Executed again", right: true, cell: (block: BlockRow) => figure(block.reexecuted) },
              { name: "Speed-up", right: true, from: 1 as const, cell: (block: BlockRow) => speedUp(block.speed_up) },
              { name: "Took", right: true, from: 2 as const, cell: (block: BlockRow) => (block.total_us === null ? "–" : `${measure(block.total_us / 1_000)} ms`) },
            ]
          : []),
        { name: "Gas", right: true, from: 2, cell: (block) => figure(block.gas_used) },
        { name: "Lanes", from: 1, cell: (block) => <Lanes lanes={block.lanes} /> },
      ]}
    />
  );
}

function figure(value: number | null): string {
  return value === null ? "–" : count(value);
}

/** One small column per lane, as high as its share of the gas. */
function Lanes({ lanes }: { lanes: LaneLoad[] }): JSX.Element {
  if (lanes.length === 0) return <span class="muted">–</span>;
  const most = Math.max(1, ...lanes.map((lane) => lane.gas_used));
  const said = lanes.map((lane) => `${lane.key}: ${plural(lane.transactions, "transaction")}, gas ${count(lane.gas_used)}`).join("\n");
  return (
    <span class="lanes" title={said}>
      <svg viewBox={`0 0 ${lanes.length * 7} 16`} width={lanes.length * 7} height="16" role="img" aria-label={said}>
        {lanes.map((lane, index) => {
          const height = Math.max(2, (lane.gas_used / most) * 16);
          return <rect key={lane.key} class="bar-front" x={index * 7} y={16 - height} width="5" height={height} rx="1" />;
        })}
      </svg>
      <span class="muted">{lanes.length}</span>
    </span>
  );
}
