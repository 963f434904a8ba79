"""The stock x402 Python server taking vouchers: the PyPI package's own code, called as its HTTP middleware calls it.

Per voucher: a `PaymentPayload` from its JSON, `x402ResourceServerSync.verify_payment`, `settle_payment`. The package
verifies vouchers of channels that it knows by itself, without its facilitator, and keeps them in its in-memory
storage. Left out are HTTP and base64 around it, and any durability, which its memory does not have.
"""

import json
import time
from collections.abc import Mapping, Sequence

from eth_account import Account
from x402 import x402ResourceServerSync
from x402.mechanisms.evm.batch_settlement.server import (
    BatchSettlementEvmScheme,
    BatchSettlementEvmSchemeServerConfig,
    InMemoryChannelStorage,
)
from x402.mechanisms.evm.batch_settlement.server import Channel as StockChannel
from x402.mechanisms.evm.batch_settlement.types import ChannelConfig as StockConfig
from x402.schemas import (
    PaymentPayload,
    PaymentRequirements,
    SettleResponse,
    SupportedKind,
    SupportedResponse,
    VerifyResponse,
)

from benchmarks.frame import BenchmarkFailed
from benchmarks.load import NANO, NETWORK, STEP, Channel
from benchmarks.payments_path import Side, charge_of_one
from channels.digests import voucher_digest
from channels.state import Channel as State
from channels.types import Address
from devices.offers import Offer

SCHEME = BatchSettlementEvmScheme.scheme
CAIP2 = f"eip155:{NETWORK.chain_id}"
TIMEOUT_S = 3_600


class NoFacilitator:
    """Says what a facilitator supports; a voucher of a known channel needs nothing else of one."""

    def __init__(self, authorizer: str) -> None:
        self._authorizer = authorizer

    def get_supported(self) -> SupportedResponse:
        """Return our one scheme."""
        extra = {"receiverAuthorizer": self._authorizer}
        return SupportedResponse(kinds=[SupportedKind(x402_version=2, scheme=SCHEME, network=CAIP2, extra=extra)])

    def verify(self, payload: PaymentPayload, requirements: PaymentRequirements) -> VerifyResponse:
        """Not reached."""
        raise BenchmarkFailed("the stock server did not verify by itself")

    def settle(self, payload: PaymentPayload, requirements: PaymentRequirements) -> SettleResponse:
        """Not reached."""
        raise BenchmarkFailed("the stock server did not charge by itself")


class StockServer(Side):
    """The stock server with the same channels in the same states."""

    def __init__(self, channels: Sequence[Channel], offer: Offer, states: Mapping[bytes, State]) -> None:
        super().__init__(channels, offer)
        backend = type(Account._keys.backend).__name__
        if backend != "CoinCurveECCBackend":
            raise BenchmarkFailed(f"x402 recovers with {backend}, not with coincurve")
        self._configs = {channel.id: _config(states[channel.id]) for channel in channels}
        self._requirements = {lane: _requirements(lane, offer, self.price) for lane in offer.lanes}
        self._lanes = {channel.id: states[channel.id].config.receiver for channel in channels}
        self._storage = InMemoryChannelStorage()
        for channel in channels:
            self._keep(states[channel.id])
        scheme = BatchSettlementEvmScheme(
            _hex(offer.lanes[0]), BatchSettlementEvmSchemeServerConfig(storage=self._storage)
        )
        self._server = x402ResourceServerSync(NoFacilitator(_hex(offer.receiver_authorizer)))
        self._server.register(CAIP2, scheme)
        self._server.initialize()

    def _keep(self, state: State) -> None:
        kept = StockChannel(
            channel_id=_hex(state.id),
            channel_config=self._configs[state.id],
            charged_cumulative_amount=str(state.charged),
            signed_max_claimable=str(state.ceiling),
            signature=_hex(state.ceiling_signature),
            balance=str(state.balance),
            onchain_synced_at=int(time.time() * 1_000),
        )
        self._storage.update_channel(kept.channel_id, lambda current: kept)

    def sign(self, count: int) -> None:
        """Make the next payment payloads, round robin: the same vouchers in the stock protocol's JSON."""
        self.signed = []
        for _ in range(count):
            channel = self.channels[self._next % len(self.channels)]
            self._next += 1
            channel.register += STEP
            ceiling = channel.register * self.price // NANO
            document = {
                "x402Version": 2,
                "payload": {
                    "type": "voucher",
                    "channelConfig": self._configs[channel.id].to_dict(),
                    "voucher": {
                        "channelId": _hex(channel.id),
                        "maxClaimableAmount": str(ceiling),
                        "signature": _hex(channel.sign(voucher_digest(channel.id, ceiling, NETWORK))),
                    },
                },
                "accepted": self._requirements[self._lanes[channel.id]].model_dump(by_alias=True),
            }
            self.signed.append((channel, json.dumps(document, separators=(",", ":")).encode()))

    async def take(self) -> float:
        """Take what was signed, one after the other: on two threads the GIL lets it do a third less."""
        requests = [(raw, self._requirements[self._lanes[channel.id]]) for channel, raw in self.signed]
        started = time.perf_counter()
        for raw, requirements in requests:
            payload = PaymentPayload.model_validate_json(raw)
            verified = self._server.verify_payment(payload, requirements)
            if not verified.is_valid:
                raise BenchmarkFailed(f"the stock server refuses a voucher: {verified.invalid_reason}")
            if not self._server.settle_payment(payload, requirements).success:
                raise BenchmarkFailed("the stock server does not charge a voucher")
        seconds = time.perf_counter() - started
        for channel in self.channels:
            kept = self._storage.get(_hex(channel.id))
            if kept is None or int(kept.charged_cumulative_amount) != channel.register * self.price // NANO:
                raise BenchmarkFailed(f"the stock server's channel 0x{channel.id.hex()} was not charged in full")
        return seconds


def _config(state: State) -> StockConfig:
    config = state.config
    return StockConfig(
        payer=_hex(config.payer),
        payer_authorizer=_hex(config.payer_authorizer),
        receiver=_hex(config.receiver),
        receiver_authorizer=_hex(config.receiver_authorizer),
        token=_hex(config.token),
        withdraw_delay=config.withdraw_delay,
        salt=_hex(config.salt),
    )


def _requirements(lane: Address, offer: Offer, price: int) -> PaymentRequirements:
    return PaymentRequirements(
        scheme=SCHEME,
        network=CAIP2,
        asset=_hex(offer.asset),
        amount=str(charge_of_one(price)),
        pay_to=_hex(lane),
        max_timeout_seconds=TIMEOUT_S,
        extra={"receiverAuthorizer": _hex(offer.receiver_authorizer), "withdrawDelay": offer.withdraw_delay},
    )


def _hex(value: bytes) -> str:
    return "0x" + value.hex()
