// Letting devices in: a window of some minutes, who waits at it, a code to scan, and a form for doing it by hand.
import type { JSX } from "preact";
import { useState } from "preact/hooks";
import type { Enrolment as EnrolmentShape, Waiting } from "../api_types";
import { useAction, useApi } from "../fetching";
import { count, duration, plural } from "../format";
import { useLive } from "../live";
import { Switch } from "../parts/form";
import { PageFrame, Section } from "../parts/page";
import { ActionError, Empty, Shown } from "../parts/states";
import { Ago, Copy, Fact, Facts, HexId, Money, Pill, useNow } from "../parts/text";
import { toast } from "../parts/toast";
import { useMay } from "../session";
import { EnrolForm } from "./device_edit";

export function Enrolment(): JSX.Element {
  const enrolment = useApi<EnrolmentShape>("/enrolment", 15_000);
  const mayOperate = useMay("operate");
  useLive("enrolment", (state) => enrolment.set(state));
  return (
    <PageFrame title="Enrolment" lead="Which devices may open channels and accounts here.">
      <Shown of={enrolment} lines={8}>
        {(data) => (
          <>
            <div class="columns">
              <Window state={data} mayOperate={mayOperate} onState={enrolment.set} />
              <Code state={data} />
            </div>
            <Section title="Waiting" note={data.waiting.length > 0 ? plural(data.waiting.length, "device") : undefined}>
              <WaitingList state={data} mayOperate={mayOperate} onState={enrolment.set} />
            </Section>
            {mayOperate && (
              <Section title="Enrol by hand" note="for a device whose id and payer you know">
                <EnrolForm />
              </Section>
            )}
          </>
        )}
      </Shown>
    </PageFrame>
  );
}

interface PartProps {
  state: EnrolmentShape;
  mayOperate: boolean;
  onState: (state: EnrolmentShape) => void;
}

const LENGTHS: [string, string][] = [
  ["300", "5 min"],
  ["900", "15 min"],
  ["3600", "1 hour"],
];

function Window({ state, mayOperate, onState }: PartProps): JSX.Element {
  const now = useNow();
  const [seconds, setSeconds] = useState("300");
  const action = useAction();
  const left = state.open_until === null ? 0 : Math.max(0, state.open_until - now);
  const open = left > 0;
  const set = async (method: "POST" | "DELETE"): Promise<void> => {
    const body = method === "POST" ? { body: { seconds: Number(seconds) } } : {};
    const answer = await action.run<EnrolmentShape>("/enrolment/window", { method, ...body });
    if (answer === null) return;
    onState(answer);
    toast(method === "POST" ? "The window is open: devices may ask to join." : "The window is closed.");
  };
  return (
    <Section title="Window" actions={<Pill state={open ? "open" : "closed"}>{open ? "open" : "closed"}</Pill>}>
      {state.automatic && <p class="notice">In this demo every device with a deposit is let in by itself, window or not.</p>}
      {open ? (
        <p class="countdown">
          <span class="countdown-time" role="timer" aria-live="off">
            {duration(left)}
          </span>
          left. Switch the device on: it appears below.
        </p>
      ) : (
        <p>While the window is open, a new device that sends its first message waits here until you let it in.</p>
      )}
      <ActionError error={action.error} />
      {mayOperate && (
        <div class="actions">
          {!open && <Switch label="For how long" value={seconds} onValue={setSeconds} options={LENGTHS} />}
          {open ? (
            <button type="button" disabled={action.busy} onClick={() => void set("DELETE")}>
              Close the window
            </button>
          ) : (
            <button type="button" class="primary" disabled={action.busy} onClick={() => void set("POST")}>
              Open the window
            </button>
          )}
        </div>
      )}
    </Section>
  );
}

/** What a device or phone scans: broker, gateway, network, token, who signs for the gateway. */
function Code({ state }: { state: EnrolmentShape }): JSX.Element {
  return (
    <Section title="Code to scan">
      <div class="qr">
        <img src={state.qr_path} alt="QR code that holds the text beside it" width="180" height="180" />
        <div>
          <p>Holds what a device needs to find this gateway: broker, gateway, network and token. Nothing in it is secret.</p>
          <p class="qr-text">
            <code>{state.qr_text}</code>
            <Copy text={state.qr_text} what="the text of the code" />
          </p>
        </div>
      </div>
    </Section>
  );
}

function WaitingList({ state, mayOperate, onState }: PartProps): JSX.Element {
  if (state.waiting.length === 0) {
    return (
      <Empty title="Nobody waits">
        {state.open_until === null ? "Open the window, then switch the device on." : "Switch the device on; it asks by itself."}
      </Empty>
    );
  }
  return (
    <ul class="plain stack" aria-live="polite">
      {state.waiting.map((each) => (
        <WaitingCard key={each.id} waiting={each} mayOperate={mayOperate} onState={onState} />
      ))}
    </ul>
  );
}

function WaitingCard(asked: { waiting: Waiting; mayOperate: boolean; onState: PartProps["onState"] }): JSX.Element {
  const { waiting, mayOperate, onState } = asked;
  const action = useAction();
  const decide = async (how: "accept" | "reject"): Promise<void> => {
    const answer = await action.run<EnrolmentShape>(`/enrolment/${waiting.id}/${how}`, { method: "POST" });
    if (answer === null) return;
    onState(answer);
    toast(how === "accept" ? `${waiting.device} may join.` : `${waiting.device} is turned away.`);
  };
  const pays = waiting.kind === "open";
  return (
    <li class="holding">
      <h3>
        {waiting.device} {waiting.known && <Pill state="quiet">known device</Pill>}
      </h3>
      <Facts wide>
        <Fact name="Wants to">{pays ? `pay for ${waiting.service}` : `earn with ${waiting.service}`}</Fact>
        <Fact name={pays ? "Payer" : "Payee"}>
          <HexId of={waiting.party} what={pays ? "the payer's address" : "the payee's address"} />
        </Fact>
        {pays && (
          <Fact name="Deposit">
            <Money of={waiting.deposit} unit />
          </Fact>
        )}
        <Fact name="Register">{count(waiting.register)}</Fact>
        <Fact name={pays ? "Channel" : "Account"}>
          <HexId of={waiting.id} what="its id" />
        </Fact>
        <Fact name="Asked">
          <Ago at={waiting.seen_at} />
          {waiting.asked > 1 && `, ${plural(waiting.asked, "time")}`}
        </Fact>
      </Facts>
      <ActionError error={action.error} />
      {mayOperate && (
        <div class="actions">
          <button type="button" class="primary" disabled={action.busy} onClick={() => void decide("accept")}>
            Accept<span class="unseen"> {waiting.device}</span>
          </button>
          <button type="button" class="danger" disabled={action.busy} onClick={() => void decide("reject")}>
            Reject<span class="unseen"> {waiting.device}</span>
          </button>
        </div>
      )}
    </li>
  );
}
