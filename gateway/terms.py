"""The offers of this gateway at the chain's present time: issuing them, and what a reading's offer says."""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import fields, replace

from channels.state import Channel, Phase, Terms
from channels.types import WITHDRAW_DELAY_MIN, OfferId, TokenDomain
from devices.offer_book import OfferBook
from devices.offers import Offer, OfferTerms, Service, parse_offer, sign_offer
from gateway.config import Config, ServiceConfig
from gateway.keys import KeyRing
from gateway.records import OfferIssued, Record

# While the chain is silent for long, the delays of all channels are looked through this often: margins are minutes.
DELAYS_EVERY_S = 5.0
_TAKES_READINGS = frozenset({Phase.OPEN, Phase.WITHDRAWING})


class TermsBook:
    """Wraps the offer book with chain time. `clock` returns chain seconds, `silence` seconds of the chain not known.

    `withdraw_margin` is what is left of a withdrawal's delay, in seconds, when its channel must be claimed; of
    another delay it is the same share. `delays` returns the withdrawal delays of the channels that take readings:
    the configured one is only that of channels to come, which may have been another when these were opened.
    """

    def __init__(self, withdraw_delay: int, withdraw_margin: int) -> None:
        self.book = OfferBook()
        self._withdraw_delay = withdraw_delay
        self._withdraw_margin = withdraw_margin
        self.clock: Callable[[], int] = lambda: 0
        self.silence: Callable[[], float] = lambda: float("inf")
        self.delays: Callable[[], Iterable[int]] = tuple
        self._shortest: tuple[float, int] | None = None  # when the delays were looked through, and the shortest one

    @property
    def chain_stale(self) -> bool:
        """True when so much of the chain is not known that a withdrawal could pass unseen."""
        silent_s = self.silence()
        # No delay is shorter (the contract takes none), so in good times nothing is looked through.
        if silent_s <= self._patience_s(WITHDRAW_DELAY_MIN):
            return False
        return silent_s > self._patience_s(self._shortest_delay())

    def _patience_s(self, delay: int) -> float:
        return delay - self._withdraw_margin * delay / self._withdraw_delay

    def _shortest_delay(self) -> int:
        now = time.monotonic()
        if self._shortest is None or now - self._shortest[0] >= DELAYS_EVERY_S:
            self._shortest = now, min(self.delays(), default=self._withdraw_delay)
        return self._shortest[1]

    @property
    def current(self) -> Offer:
        """The offer that is published now; one is issued before the gateway takes messages."""
        offer = self.book.current
        assert offer is not None, "an offer is issued at start"
        return offer

    def terms(self, offer: OfferId, service: str) -> Terms | None:
        """Return a service's line in an offer as it stands now, or None for an unknown pair."""
        return self.book.terms(offer, service, self.clock())

    def terms_then(self, offer: OfferId, service: str) -> Terms | None:
        """Return the line as it was when an accepted reading was priced: never expired."""
        return self.book.terms(offer, service, 0)

    def observe(self, record: Record) -> None:
        """Take an offer from the journal."""
        if isinstance(record, OfferIssued):
            self.book.supersede(parse_offer(record.body), record.at)

    def renew(self, wanted: OfferTerms, key: bytes) -> OfferIssued | None:
        """Return a new offer to issue, or None while the current one says the same and is far from its end.

        `wanted` carries no serial of its own: the next one is given.
        """
        now = self.clock()
        current = self.book.current
        if current is not None:
            lifetime = current.valid_until - current.valid_from
            # One that begins later was issued when a node named a time that never was.
            if _same_terms(current, wanted) and current.valid_from <= now < current.valid_from + lifetime // 2:
                return None
            wanted = replace(wanted, serial=current.serial + 1)
        return OfferIssued(sign_offer(wanted, key).payload, now)


def delays_of(channels: Iterable[Channel]) -> Iterator[int]:
    """Yield the withdrawal delays of those channels that take readings, in seconds."""
    return (channel.config.withdraw_delay for channel in channels if channel.phase in _TAKES_READINGS)


def wanted_terms(config: Config, keys: KeyRing, token: TokenDomain, chain_time: int) -> OfferTerms:
    """Return the offer that the configuration asks for, valid from `chain_time` (chain seconds)."""
    return OfferTerms(
        serial=1,
        gateway=config.gateway,
        chain_id=config.chain.chain_id,
        asset=token.address,
        asset_name=token.name,
        asset_version=token.version,
        lanes=tuple(key.address for key in keys.lanes),
        receiver_authorizer=keys.authorizer.address,
        withdraw_delay=config.offer.withdraw_delay,
        min_deposit=int(config.offer.min_deposit),
        max_ahead=int(config.offer.max_ahead),
        grace=config.offer.grace,
        services=_services(config.services),
        valid_from=chain_time,
        valid_until=chain_time + config.offer.valid_days * 86_400,
    )


def _services(services: Mapping[str, ServiceConfig]) -> dict[str, Service]:
    return {
        name: Service(service.unit, int(service.price), service.max_step, service.direction)
        for name, service in services.items()
    }


def _same_terms(current: OfferTerms, wanted: OfferTerms) -> bool:
    own = {"serial", "valid_from", "valid_until"}
    names = [field.name for field in fields(OfferTerms) if field.name not in own]
    return all(getattr(current, name) == getattr(wanted, name) for name in names)
