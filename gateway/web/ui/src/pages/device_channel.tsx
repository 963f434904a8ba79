// A channel or an account of a device, in full.
import type { JSX } from "preact";
import type { AccountShape, ChannelShape } from "../api_types";
import { count } from "../format";
import { Fact, Facts, Fill, HexId, Money, Pill, When } from "../parts/text";

export function ChannelCard({ channel }: { channel: ChannelShape }): JSX.Element {
  return (
    <article class="holding">
      <h3>
        {channel.service} <Pill state={channel.phase} />
        <Fill share={channel.fill} label={`Deposit used on ${channel.service}`} />
      </h3>
      {channel.set_aside !== "" && (
        <p class="notice warn">The chain refused its last claim: {channel.set_aside}. It is tried again in a later cycle.</p>
      )}
      <Facts wide>
        <Fact name="Charged">
          <Money of={channel.charged} />
        </Fact>
        <Fact name="Netted">
          <Money of={channel.offset} />
        </Fact>
        <Fact name="Claimed on chain">
          <Money of={channel.claimed} />
        </Fact>
        <Fact name="Unclaimed">
          <Money of={channel.unclaimed} />
        </Fact>
        {channel.forgiven !== "0" && (
          <Fact name="Forgiven">
            <Money of={channel.forgiven} />
          </Fact>
        )}
        <Fact name="Balance">
          <Money of={channel.balance} />
        </Fact>
        <Fact name="Deposited">
          <Money of={channel.deposited} />
        </Fact>
        <Fact name="Given back">
          <Money of={channel.refunded} />
        </Fact>
        {channel.withdrawing !== "0" && (
          <Fact name="Being withdrawn">
            <Money of={channel.withdrawing} /> after <When at={channel.withdraw_after} />
          </Fact>
        )}
        <Fact name="Register">
          {count(channel.register)} {channel.unit}
        </Fact>
        <Fact name="Last reading">no. {count(channel.last_seq)}</Fact>
        <Fact name="Lane">{channel.lane}</Fact>
        <Fact name="Channel">
          <HexId of={channel.channel_id} what="the channel's id" />
        </Fact>
        <Fact name="Payer">
          <HexId of={channel.payer} what="the payer's address" />
        </Fact>
      </Facts>
      <Voucher channel={channel} />
    </article>
  );
}

/** The device's signed ceiling: what lets the gateway claim. */
function Voucher({ channel }: { channel: ChannelShape }): JSX.Element {
  if (channel.voucher === "" || channel.voucher === "0x") {
    return <p class="muted small">No voucher yet: the first reading brings one.</p>;
  }
  return (
    <div class="voucher">
      <span class="muted small">Voucher held</span>
      <span>
        up to <Money of={channel.ceiling} unit />
      </span>
      <HexId of={channel.voucher} what="the voucher's signature" />
      <span class="muted small">signed by</span>
      <HexId of={channel.payer_authorizer} what="the signer's address" />
    </div>
  );
}

export function AccountCard({ account }: { account: AccountShape }): JSX.Element {
  return (
    <article class="holding">
      <h3>{account.service}</h3>
      <Facts wide>
        <Fact name="Earned">
          <Money of={account.earned} />
        </Fact>
        <Fact name="Operator’s share">
          <Money of={account.fee} />
        </Fact>
        <Fact name="Netted">
          <Money of={account.offset} />
        </Fact>
        <Fact name="Still due">
          <Money of={account.net} />
        </Fact>
        <Fact name="Paid to the payee">
          <Money of={account.paid} />
        </Fact>
        <Fact name="Register">
          {count(account.register)} {account.unit}
        </Fact>
        <Fact name="Last reading">no. {count(account.last_seq)}</Fact>
        <Fact name="Account">
          <HexId of={account.account_id} what="the account's id" />
        </Fact>
        <Fact name="Payee">
          <HexId of={account.payee} what="the payee's address" />
        </Fact>
        <Fact name="Meter key">
          <HexId of={account.meter_key} what="the meter's key" />
        </Fact>
      </Facts>
    </article>
  );
}
