"""The signing half of a device: its channel or earner account, and every message that needs a key."""

from firmware_sim.digests import (
    ChannelConfig,
    channel_id,
    close_digest,
    deposit_nonce,
    earner_digest,
    open_digest,
    reading_digest,
    receive_digest,
    voucher_digest,
)
from firmware_sim.identity import Identity
from firmware_sim.keys import keccak, recover
from firmware_sim.offers import Offer
from firmware_sim.wire import (
    Authorization,
    Earner,
    Reading,
    Receipt,
    encode_close,
    encode_earner_open,
    encode_open,
    encode_reading,
)

# An authorization outlives the offer by a day, so that a slow uplink does not make the deposit invalid.
AUTHORIZATION_SPARE_S = 86_400


class Account:
    """A channel (config set) or an earner account (config None) of one identity on one chain."""

    __slots__ = ("chain_id", "config", "id", "identity")

    def __init__(self, identity: Identity, chain_id: int, config: ChannelConfig | None) -> None:
        self.identity = identity
        self.chain_id = chain_id
        self.config = config
        if config is None:
            self.id = earner_digest(
                chain_id,
                identity.gateway,
                identity.device,
                identity.service,
                identity.owner_key.address,
                identity.meter_key.address,
                identity.salt,
            )
        else:
            self.id = channel_id(chain_id, config)

    @classmethod
    def under(cls, identity: Identity, offer: Offer) -> "Account":
        """The account that `identity` opens under `offer`; the payer's address picks the lane."""
        if identity.earns:
            return cls(identity, offer.chain_id, None)
        config = ChannelConfig(
            payer=identity.owner_key.address,
            payer_authorizer=identity.meter_key.address,
            receiver=offer.lane_of(identity.owner_key.address),
            receiver_authorizer=offer.authorizer,
            token=offer.asset,
            withdraw_delay=offer.withdraw_delay,
            salt=identity.salt,
        )
        return cls(identity, offer.chain_id, config)

    def open_payload(self, offer: bytes, register: int, deposit: Authorization | None) -> bytes:
        """An `open` under an offer id: it deposits, or without a deposit enrols the earner account."""
        who = self.identity
        if self.config is None or deposit is None:
            signature = who.owner_key.sign(self.id)
            earner = Earner(who.owner_key.address, who.meter_key.address, who.salt, signature)
            return encode_earner_open(offer, who.service, register, earner, who.encoding)
        binding = None
        if who.bind:
            digest = open_digest(self.chain_id, self.id, who.gateway, who.device, who.service, register)
            binding = who.meter_key.sign(digest)
        return encode_open(offer, self.config, who.service, register, deposit, binding, who.encoding)

    def authorization(self, offer: Offer, amount: int, count: int, now_s: int) -> Authorization:
        """The payer's `count`-th ERC-3009 authorization, of `amount` base units."""
        salt = keccak(self.identity.salt + count.to_bytes(8, "big"))
        # The offer's end is chain time: a device whose clock stands in the past still signs a usable one.
        valid_before = max(now_s, offer.valid_until) + AUTHORIZATION_SPARE_S
        digest = receive_digest(
            self.chain_id,
            (offer.asset, offer.asset_name, offer.asset_version),
            self.identity.owner_key.address,
            amount,
            0,
            valid_before,
            deposit_nonce(self.id, salt),
        )
        return Authorization(amount, 0, valid_before, salt, self.identity.owner_key.sign(digest))

    def reading_payload(self, seq: int, register: int, time_ms: int, offer: bytes, ceiling: int) -> bytes:
        """A signed `usage` message for the cumulative `ceiling`, or an `earn` message (ceiling 0)."""
        who = self.identity
        voucher = None
        if self.config is not None:
            voucher = who.meter_key.sign(voucher_digest(self.chain_id, self.id, ceiling))
        signature = None
        if self.config is None or who.sign_readings:
            signature = who.meter_key.sign(
                reading_digest(self.chain_id, self.id, seq, register, time_ms, offer, ceiling)
            )
        return encode_reading(
            Reading(self.id, seq, register, time_ms, offer, ceiling, voucher, signature), who.encoding
        )

    def close_payload(self, seq: int) -> bytes:
        """A signed `close` message."""
        who = self.identity
        signature = who.meter_key.sign(close_digest(self.chain_id, self.id, who.gateway, who.device, seq))
        return encode_close(self.id, seq, signature, who.encoding)

    def signed(self, receipt: Receipt) -> bool:
        """Whether a receipt shows this device's own voucher for the ceiling that it names."""
        if receipt.ceiling is None or receipt.signature is None:
            return False
        signer = recover(voucher_digest(self.chain_id, self.id, receipt.ceiling), receipt.signature)
        return signer == self.identity.meter_key.address
