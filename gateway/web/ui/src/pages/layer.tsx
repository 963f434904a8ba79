// The execution layer: how it stands, its blocks, and how its lanes are loaded.
import type { JSX } from "preact";
import { useMemo } from "preact/hooks";
import { withQuery } from "../api";
import type { BlockRow, LayerState, Page } from "../api_types";
import { useApi } from "../fetching";
import { count, measure, percent, seen, speedUp } from "../format";
import { useLive } from "../live";
import { Bars } from "../parts/bars";
import { PageFrame, Section } from "../parts/page";
import { Empty, Shown } from "../parts/states";
import { Pager, Table } from "../parts/table";
import { Fact, Facts, HexId, When } from "../parts/text";
import { usePlace } from "../router";
import { BlockTable } from "./block_table";

const ROWS = 25;

export function Layer(): JSX.Element {
  const cursor = usePlace().query.get("cursor");
  const layer = useApi<LayerState>("/layer", 5_000);
  const blocks = useApi<Page<BlockRow>>(withQuery("/layer/blocks", { limit: String(ROWS), cursor }));
  useLive("block", (news) => {
    if (cursor !== null || blocks.data === null) return;
    const all = new Map([...blocks.data.items, ...news.blocks].map((block) => [block.number, block]));
    const items = [...all.values()].sort((a, b) => b.number - a.number).slice(0, ROWS);
    blocks.set({ ...blocks.data, items, next: blocks.data.next ?? null });
  });
  return (
    <PageFrame
      title="Execution layer"
      lead={layer.data && (layer.data.embedded ? "Embedded: an EVM inside the gateway’s process." : `An EVM chain at ${layer.data.url}.`)}
    >
      <Shown of={layer}>{(data) => <State layer={data} />}</Shown>
      <Shown of={blocks} lines={8}>
        {(page) =>
          page.items.length === 0 ? (
            <Empty title="No block with transactions yet">Deposits and settlements bring them.</Empty>
          ) : (
            <>
              <LaneLoads blocks={page.items} />
              <Section title="Blocks" note="newest first">
                <BlockTable blocks={page.items} />
                <Pager page={page} what="blocks" />
              </Section>
            </>
          )
        }
      </Shown>
    </PageFrame>
  );
}

function State({ layer }: { layer: LayerState }): JSX.Element {
  const again = layer.executed && layer.reexecuted !== null ? layer.reexecuted / layer.executed : null;
  return (
    <div class="card">
      <Facts wide>
        <Fact name="Head">{layer.head === null ? "no block yet" : `block ${count(layer.head)}`}</Fact>
        <Fact name="Its time">
          <When at={layer.time} none="–" />
        </Fact>
        <Fact name="Seen">{layer.lag_s === null ? "not since the start" : seen(layer.lag_s).replace("seen ", "")}</Fact>
        <Fact name="Block time">{layer.block_time_s === null ? "–" : `${measure(layer.block_time_s)} s`}</Fact>
        <Fact name="Final up to">block {count(layer.final)}</Fact>
        <Fact name="Own transactions under way">{count(layer.outstanding)}</Fact>
        <Fact name="Reorganisations">{count(layer.reorgs)}</Fact>
        <Fact name="Chain id">{layer.chain_id}</Fact>
        {layer.threads !== null && <Fact name="Threads">{layer.threads}</Fact>}
        {layer.transactions !== null && <Fact name="Transactions">{count(layer.transactions)}</Fact>}
        {layer.executed !== null && <Fact name="Executed">{count(layer.executed)}</Fact>}
        {layer.reexecuted !== null && (
          <Fact name="Executed again after conflicts">
            {count(layer.reexecuted)}
            {again !== null && ` (${percent(again)})`}
          </Fact>
        )}
        {layer.speed_up !== null && <Fact name="Parallel speed-up">{speedUp(layer.speed_up)}</Fact>}
        <Fact name="Settlement contract">
          <HexId of={layer.settlement} what="the settlement contract's address" />
        </Fact>
        <Fact name="Token">
          <HexId of={layer.token} what="the token's address" />
        </Fact>
        <Fact name="Payouts contract">
          <HexId of={layer.payouts} what="the payouts contract's address" />
        </Fact>
      </Facts>
    </div>
  );
}

interface Load {
  key: string;
  transactions: number;
  gas: number;
}

/** What each lane carried in the blocks that are shown. */
function LaneLoads({ blocks }: { blocks: BlockRow[] }): JSX.Element | null {
  const loads = useMemo(() => {
    const sums = new Map<string, Load>();
    for (const lane of blocks.flatMap((block) => block.lanes)) {
      const sum = sums.get(lane.key) ?? { key: lane.key, transactions: 0, gas: 0 };
      sums.set(lane.key, { key: lane.key, transactions: sum.transactions + lane.transactions, gas: sum.gas + lane.gas_used });
    }
    return [...sums.values()].sort((a, b) => b.gas - a.gas);
  }, [blocks]);
  if (loads.length === 0) return null;
  const most = Math.max(...loads.map((load) => load.gas));
  return (
    <Section title="Load of the lanes" note={`in the ${blocks.length} blocks below`}>
      <div class="scrolling">
        <Table
          caption="Load of each lane"
          rows={loads}
          rowKey={(load) => load.key}
          columns={[
            { name: "Lane", head: true, cell: (load) => load.key },
            { name: "Transactions", right: true, cell: (load) => count(load.transactions) },
            { name: "Gas", right: true, cell: (load) => count(load.gas) },
            { name: "Share", from: 1, cell: (load) => <Bars of={load.gas} all={most} /> },
          ]}
        />
      </div>
    </Section>
  );
}
