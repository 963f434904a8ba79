// How the gateway stands, at one look.
import type { JSX } from "preact";
import { useState } from "preact/hooks";
import type { Overview as OverviewShape, Tiles } from "../api_types";
import { useApi } from "../fetching";
import { coinText, count, enough, measure, plural, seen, sentence } from "../format";
import { useLive } from "../live";
import { PageFrame, Section } from "../parts/page";
import { Shown } from "../parts/states";
import { Table } from "../parts/table";
import { Ago, HexId, Money, Pill } from "../parts/text";
import { NextSettlement } from "./next_settlement";
import { Announcer } from "./overview_announcer";
import { Happening } from "./overview_happening";
import { LiveChart } from "./overview_chart";
import { Tile } from "./overview_tile";

export function Overview(): JSX.Element {
  const overview = useApi<OverviewShape>("/overview", 60_000);
  const [latest, setLatest] = useState<Tiles | null>(null);
  useLive("overview", setLatest);
  return (
    <PageFrame title="Overview">
      <Shown of={overview} lines={8}>
        {(data) => {
          // After a reset or a minute the answer may be the newer one.
          const tiles = latest !== null && latest.at >= data.tiles.at ? latest : data.tiles;
          return (
            <>
              <Problems tiles={tiles} />
              <MoneyTiles tiles={tiles} />
              <LiveChart />
              <StateTiles tiles={tiles} overview={data} />
              <Happening />
              <GasKeys overview={data} />
              <Announcer tiles={tiles} />
            </>
          );
        }}
      </Shown>
    </PageFrame>
  );
}

/** What is wrong, each a link to what mends it. */
function Problems({ tiles }: { tiles: Tiles }): JSX.Element | null {
  const { health } = tiles;
  if (health.problems.length === 0) return null;
  return (
    <div class={`notice ${health.state === "fault" ? "fault" : "warn"}`}>
      <ul class="plain">
        {health.problems.map((problem) => (
          <li key={problem.code}>
            <a href="/repairs">{sentence(problem.words)}</a>
          </li>
        ))}
      </ul>
    </div>
  );
}

function MoneyTiles({ tiles }: { tiles: Tiles }): JSX.Element {
  return (
    <ul class="tiles" aria-label="Money">
      <Tile to="/ledger" name="Earned today" value={<Money of={tiles.earned_today} unit />} main>
        charged <Money of={tiles.charged_today} />
      </Tile>
      <Tile to="/settlement" name="Earned since the last settlement" value={<Money of={tiles.earned_since_settlement} />}>
        {tiles.last_settlement ? (
          <>
            cycle {tiles.last_settlement.number}, <Ago at={tiles.last_settlement.at} />
          </>
        ) : (
          "no settlement yet"
        )}
      </Tile>
      <Tile to="/devices?sort=-unclaimed" name="Unsettled exposure" value={<Money of={tiles.exposure} />}>
        payable to earners <Money of={tiles.payable} />
      </Tile>
      <NextSettlement tiles={tiles} />
    </ul>
  );
}

function StateTiles({ tiles, overview }: { tiles: Tiles; overview: OverviewShape }): JSX.Element {
  const { devices, receipt_ms: latency, chain, broker } = tiles;
  const lowest = Math.min(...overview.gas.keys.map((key) => key.transactions));
  const gasLow = overview.gas.warning !== "" || overview.gas.keys.some((key) => key.is_low);
  return (
    <ul class="tiles small-tiles" aria-label="State">
      <Tile to="/devices?status=online" name="Devices online" value={`${count(devices.online)} of ${count(devices.total)}`}>
        {plural(tiles.channels, "channel")}
      </Tile>
      <Tile
        to="/events?kind=refusal"
        name="Refused lately"
        value={count(devices.refused_recently)}
        tone={devices.refused_recently > 0 ? "warn" : undefined}
      >
        in ten minutes, {count(tiles.refused)} messages since the start
      </Tile>
      <Tile
        to="/devices?problem=no_deposit"
        name="Without a deposit"
        value={count(devices.without_deposit)}
        tone={devices.without_deposit > 0 ? "warn" : undefined}
      >
        cannot pay until one arrives
      </Tile>
      <Tile to="/events" name="Receipts" value={`${measure(latency.p50)} ms`}>
        99 of 100 within {measure(latency.p99)} ms
      </Tile>
      <Tile
        to="/repairs"
        name="Gas left"
        value={overview.gas.keys.length > 0 ? enough(lowest) : "–"}
        tone={gasLow ? "warn" : undefined}
      >
        the poorest key; {plural(overview.gas.refills, "refill")} left
      </Tile>
      <Tile
        to="/layer"
        name={chain.embedded ? "Embedded layer" : `Chain ${chain.id}`}
        value={chain.block === null ? "no block yet" : `block ${count(chain.block)}`}
        tone={chain.stale ? "fault" : undefined}
      >
        {chain.lag_s === null ? "not seen since the start" : seen(chain.lag_s)}
      </Tile>
      <Tile
        to="/repairs"
        name="Broker"
        value={broker.connected ? "connected" : "not connected"}
        tone={broker.connected ? undefined : "fault"}
      >
        {broker.host}:{broker.port}, {count(broker.queued)} waiting
      </Tile>
      <Tile to="/repairs" name="Last backup" value={<Ago at={overview.backup.last_at} none="none known" />}>
        <code>metergate backup FILE</code>
      </Tile>
    </ul>
  );
}

function GasKeys({ overview }: { overview: OverviewShape }): JSX.Element {
  return (
    <Section title="Coins for gas" note={overview.gas.warning === "" ? undefined : sentence(overview.gas.warning)}>
      <Table
        caption="Sending keys and their coins"
        rows={overview.gas.keys}
        rowKey={(key) => key.name}
        columns={[
          { name: "Key", head: true, cell: (key) => key.name },
          { name: "Address", from: 1, cell: (key) => <HexId of={key.address} what={`the address of ${key.name}`} /> },
          { name: "Coins", right: true, cell: (key) => coinText(key.coins) },
          { name: "Enough for", right: true, cell: (key) => <span class={key.is_low ? "low" : ""}>{enough(key.transactions)}</span> },
          { name: "State", from: 1, cell: (key) => <Pill state={key.is_low ? "warning" : "ok"}>{key.is_low ? "low" : "enough"}</Pill> },
        ]}
      />
    </Section>
  );
}
