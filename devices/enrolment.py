"""The rules of `open`: who may open which channel or account (docs/protocol.md 2, 3 and 5).

Pure functions over what is known here. What only the chain can tell (the nonce is unused, the payer has the
money, the deposit goes through in a simulation) is found out by the gateway afterwards.
"""

from dataclasses import dataclass
from typing import TypeAlias

from channels.digests import account_id, channel_id, deposit_digest, deposit_nonce, open_digest
from channels.refusals import Refusal
from channels.signatures import is_signed_by
from channels.types import (
    SETTLEMENT_ADDRESS,
    WITHDRAW_DELAY_MAX,
    WITHDRAW_DELAY_MIN,
    ZERO_ADDRESS,
    AccountId,
    Address,
    Authorization,
    ChannelConfig,
    ChannelId,
    Network,
    OfferId,
    TokenDomain,
)
from devices.messages import Open, OpenEarner
from devices.offer_book import OfferBook
from devices.offers import EARN, PAY, Offer
from devices.registry import (
    ACCOUNTS_PER_DEVICE_MAX,
    CHANNELS_PER_DEVICE_MAX,
    Registry,
)


@dataclass(frozen=True, slots=True)
class EnrolmentPolicy:
    """How strict this gateway is."""

    demo: bool = False  # permit-join: unknown devices may open without being enrolled
    # A deposit takes a block or two to be mined and must not expire on the way.
    authorization_margin_s: int = 60


@dataclass(frozen=True, slots=True)
class OpenGrant:
    """An `open` that may go to the chain."""

    id: ChannelId
    config: ChannelConfig
    device: str
    service: str
    register: int
    lane: int
    offer: OfferId
    offer_serial: int
    amount: int
    authorization: Authorization
    nonce: bytes  # of the authorization, 32 bytes


@dataclass(frozen=True, slots=True)
class EarnerGrant:
    """An earner account that may be opened."""

    id: AccountId
    device: str
    service: str
    register: int
    payee: Address
    meter_key: Address
    offer: OfferId
    offer_serial: int


@dataclass(frozen=True, slots=True)
class AlreadyOpen:
    """The same `open` was done before: answered as a duplicate."""

    id: bytes  # channel or account, 32 bytes


OpenDecision: TypeAlias = OpenGrant | AlreadyOpen | Refusal
EarnerDecision: TypeAlias = EarnerGrant | AlreadyOpen | Refusal


def offer_network(offer: Offer) -> Network:
    """Return the network that an offer's channels live on."""
    return Network(offer.chain_id, SETTLEMENT_ADDRESS)


def open_id(message: Open, network: Network) -> ChannelId:
    """Return the id of the channel that an `open` names."""
    return channel_id(message.config, network)


def earner_id(message: OpenEarner, gateway: str, device: str, network: Network) -> AccountId:
    """Return the id of the account that an `open` of the earner form names."""
    return account_id(gateway, device, message.service, message.payee, message.meter_key, message.salt, network)


def check_open(
    message: Open, device: str, book: OfferBook, registry: Registry, policy: EnrolmentPolicy, chain_time: int
) -> OpenDecision:
    """Decide on an `open` of a paying channel by `device` (of the topic); `chain_time` in chain seconds.

    Checks in this order: the same deposit was credited (AlreadyOpen); the offer; the service; the
    configuration; the channel's binding; enrolment and bounds; another deposit in flight; the amount; the
    authorization. The gateway must have published an offer.
    """
    current = book.current
    if current is None:
        return Refusal.OFFER_UNKNOWN
    network = offer_network(current)
    channel = channel_id(message.config, network)
    nonce = deposit_nonce(channel, message.authorization.salt)
    binding = registry.binding(channel)
    ours = binding is not None and (binding.device, binding.service) == (device, message.service)
    if ours and registry.knows_deposit(channel, nonce):
        return AlreadyOpen(channel)
    offer = _offer(message.offer, book, chain_time)
    if isinstance(offer, Refusal):
        return offer
    refusal = (
        _service_refusal(offer, message.service, PAY)
        or _config_refusal(message.config, offer)
        or (Refusal.CHANNEL_TAKEN if binding is not None and not ours else None)
        or _enrolment_refusal(message, device, channel, offer, registry, policy)
        or _deposit_refusal(message, device, channel, offer, registry, policy, chain_time)
    )
    if refusal is not None:
        return refusal
    return OpenGrant(
        id=channel,
        config=message.config,
        device=device,
        service=message.service,
        register=message.register,
        lane=offer.lane(message.config.payer),
        offer=offer.id,
        offer_serial=offer.serial,
        amount=message.amount,
        authorization=message.authorization,
        nonce=nonce,
    )


def check_open_earner(
    message: OpenEarner,
    device: str,
    book: OfferBook,
    registry: Registry,
    policy: EnrolmentPolicy,
    chain_time: int,
) -> EarnerDecision:
    """Decide on an `open` of an earner account by `device` (of the topic).

    Checks in this order: it is open already; the offer; the service; payee and meter key are addresses; payee's
    signature; enrolment and bounds.
    """
    current = book.current
    if current is None:
        return Refusal.OFFER_UNKNOWN
    account = earner_id(message, current.gateway, device, offer_network(current))
    if registry.account_binding(account) is not None:
        return AlreadyOpen(account)
    offer = _offer(message.offer, book, chain_time)
    if isinstance(offer, Refusal):
        return offer
    refusal = _service_refusal(offer, message.service, EARN)
    if refusal is not None:
        return refusal
    if ZERO_ADDRESS in (message.payee, message.meter_key):
        return Refusal.CONFIG_MISMATCH
    if not is_signed_by(account, message.signature, message.payee):
        return Refusal.BAD_SIGNATURE
    known = registry.device(device)
    if not policy.demo and not registry.is_enrolled_account(account):
        return Refusal.NOT_ENROLLED
    if registry.full if known is None else len(known.accounts) >= ACCOUNTS_PER_DEVICE_MAX:
        return Refusal.LIMIT
    return EarnerGrant(
        id=account,
        device=device,
        service=message.service,
        register=message.register,
        payee=message.payee,
        meter_key=message.meter_key,
        offer=offer.id,
        offer_serial=offer.serial,
    )


def _offer(named: OfferId | None, book: OfferBook, chain_time: int) -> Offer | Refusal:
    if named is None:
        offer = book.current
    else:
        known = book.known.get(named)
        offer = None if known is None else known.offer
    if offer is None:
        return Refusal.OFFER_UNKNOWN
    return offer if book.is_usable(offer.id, chain_time) else Refusal.OFFER_EXPIRED


def _service_refusal(offer: Offer, service: str, direction: str) -> Refusal | None:
    line = offer.services.get(service)
    return Refusal.SERVICE_UNKNOWN if line is None or line.direction != direction else None


def _config_refusal(config: ChannelConfig, offer: Offer) -> Refusal | None:
    fits = (
        config.payer != ZERO_ADDRESS
        and config.payer_authorizer != ZERO_ADDRESS
        and config.receiver == offer.lanes[offer.lane(config.payer)]
        and config.receiver_authorizer == offer.receiver_authorizer
        and config.token == offer.asset
        and config.withdraw_delay == offer.withdraw_delay
        and WITHDRAW_DELAY_MIN <= config.withdraw_delay <= WITHDRAW_DELAY_MAX
    )
    return None if fits else Refusal.CONFIG_MISMATCH


def _enrolment_refusal(
    message: Open,
    device: str,
    channel: ChannelId,
    offer: Offer,
    registry: Registry,
    policy: EnrolmentPolicy,
) -> Refusal | None:
    """A binding that is given must be right, whoever is enrolled."""
    known = registry.device(device)
    if message.binding is not None:
        digest = open_digest(channel, offer.gateway, device, message.service, message.register, offer_network(offer))
        if not is_signed_by(digest, message.binding, message.config.payer_authorizer):
            return Refusal.BAD_SIGNATURE
    if not policy.demo:
        if known is None:
            return Refusal.NOT_ENROLLED
        if message.binding is None and message.config.payer not in known.payers:
            return Refusal.NOT_ENROLLED
    if registry.is_bound(channel):
        return None
    if registry.full if known is None else len(known.channels) >= CHANNELS_PER_DEVICE_MAX:
        return Refusal.LIMIT
    return None


def _deposit_refusal(
    message: Open,
    device: str,
    channel: ChannelId,
    offer: Offer,
    registry: Registry,
    policy: EnrolmentPolicy,
    chain_time: int,
) -> Refusal | None:
    if registry.pending(device) is not None:
        return Refusal.DEPOSIT_PENDING
    least = 1 if registry.is_bound(channel) else offer.min_deposit
    if message.amount < least:
        return Refusal.DEPOSIT_TOO_SMALL
    given = message.authorization
    # The token takes it strictly between the two times.
    if not given.valid_after < chain_time < given.valid_before - policy.authorization_margin_s:
        return Refusal.DEPOSIT_INVALID
    digest = deposit_digest(
        channel,
        message.config.payer,
        message.amount,
        given.valid_after,
        given.valid_before,
        given.salt,
        TokenDomain(offer.asset, offer.asset_name, offer.asset_version),
        offer.chain_id,
    )
    # A contract's signature (EIP-1271) cannot be judged without the chain: on this path payers are plain keys.
    if not is_signed_by(digest, given.signature, message.config.payer):
        return Refusal.DEPOSIT_INVALID
    return None
