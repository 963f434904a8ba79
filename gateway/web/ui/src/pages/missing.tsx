import type { JSX } from "preact";
import { Empty } from "../parts/states";
import { PageFrame } from "../parts/page";

export function Missing(): JSX.Element {
  return (
    <PageFrame title="No such page">
      <Empty title="There is nothing under this address.">
        <a href="/">Back to the overview</a>
      </Empty>
    </PageFrame>
  );
}
