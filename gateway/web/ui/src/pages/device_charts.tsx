// What a device used and what that came to, as it said itself.
import type { JSX } from "preact";
import { useMemo, useState } from "preact/hooks";
import { withQuery } from "../api";
import type { Series } from "../api_types";
import { useApi } from "../fetching";
import { Chart } from "../parts/chart";
import { Switch } from "../parts/form";
import { Section } from "../parts/page";
import { Empty, Shown } from "../parts/states";
import { useDecimals } from "../session";

interface Props {
  device: string;
  services: string[];
  units: Record<string, string>;
}

export function DeviceCharts({ device, services, units }: Props): JSX.Element | null {
  const [picked, setPicked] = useState("");
  const [range, setRange] = useState("24h");
  const service = services.includes(picked) ? picked : (services[0] ?? "");
  const path = withQuery(`/devices/${encodeURIComponent(device)}/series`, { range, service });
  const series = useApi<Series>(service === "" ? null : path, 10_000);
  if (service === "") return null;
  return (
    <Section
      title="Usage and money"
      note="cumulative, by the device’s own clock"
      actions={
        <>
          {services.length > 1 && (
            <Switch label="Service" value={service} onValue={setPicked} options={services.map((each) => [each, each])} />
          )}
          <Switch
            label="How far back"
            value={range}
            onValue={setRange}
            options={[
              ["10m", "10 min"],
              ["24h", "24 h"],
              ["all", "All"],
            ]}
          />
        </>
      }
    >
      <Shown of={series} lines={5}>
        {(data) =>
          data.t.length < 2 ? (
            <Empty title="Too few readings to draw">Two readings within this time make a line.</Empty>
          ) : (
            <Pair data={data} unit={units[service] ?? "units"} />
          )
        }
      </Shown>
    </Section>
  );
}

function Pair({ data, unit }: { data: Series; unit: string }): JSX.Element {
  const decimals = useDecimals();
  const [register, amount] = useMemo(() => {
    const [registers = [], amounts = []] = data.v;
    const tokens = amounts.map((value) => (value === null ? null : value / 10 ** decimals)); // a picture, no books
    return [
      { t: data.t, v: [registers] },
      { t: data.t, v: [tokens] },
    ];
  }, [data, decimals]);
  return (
    <div class="columns">
      <Chart title="Register" unit={unit} lines={[{ name: "register", colour: "--chart-1" }]} data={register} height={170} fromZero={false} />
      <Chart title="Amount" unit="tokens" lines={[{ name: "amount", colour: "--chart-2" }]} data={amount} height={170} fromZero={false} />
    </div>
  );
}
