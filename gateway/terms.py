"""The offers of this gateway at the chain's present time: issuing them, and what a reading's offer says."""

from collections.abc import Callable, Mapping
from dataclasses import fields, replace

from channels.state import Terms
from channels.types import OfferId, TokenDomain
from devices.offer_book import OfferBook
from devices.offers import Offer, OfferTerms, Service, parse_offer, sign_offer
from gateway.config import Config, ServiceConfig
from gateway.keys import KeyRing
from gateway.records import OfferIssued, Record


class TermsBook:
    """Wraps the offer book with chain time. `clock` returns chain seconds, `silence` seconds without a block.

    `withdraw_margin` is what is left of a withdrawal's delay, in seconds, when its channel must be claimed.
    """

    def __init__(self, withdraw_delay: int, withdraw_margin: int) -> None:
        self.book = OfferBook()
        self._stale_after_s = withdraw_delay - withdraw_margin
        self.clock: Callable[[], int] = lambda: 0
        self.silence: Callable[[], float] = lambda: float("inf")

    @property
    def chain_stale(self) -> bool:
        """True when the chain has been silent for so long that a withdrawal could pass unseen."""
        return self.silence() > self._stale_after_s

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
            if _same_terms(current, wanted) and now < current.valid_from + lifetime // 2:
                return None
            wanted = replace(wanted, serial=current.serial + 1)
        return OfferIssued(sign_offer(wanted, key).payload, now)


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
