"""Which offers are known, which one is current, and until when an earlier one may still be used."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from channels.state import Terms
from channels.types import OfferId
from devices.offers import Offer, Service

# Operators change prices a few times a day at most; the journal keeps every offer for ever.
KNOWN_MAX = 4096


class OfferRejected(Exception):
    """An offer that may not follow those known; the text says why."""


@dataclass(frozen=True, slots=True)
class KnownOffer:
    """An offer and since when (chain seconds) another one is current; None: it is the current one."""

    offer: Offer
    superseded_at: int | None = None

    @property
    def usable_until(self) -> int:
        """The last chain second at which readings priced under it are taken: its end plus its own grace."""
        end = self.offer.valid_until
        if self.superseded_at is not None:
            end = min(end, self.superseded_at)
        return end + self.offer.grace


class OfferBook:
    """The offers of one gateway. `entries` come from the journal, the current one last if there is one.

    Raises OfferRejected when they contradict each other.
    """

    def __init__(self, entries: Iterable[KnownOffer] = ()) -> None:
        self._known: dict[OfferId, KnownOffer] = {}
        self._units: dict[str, tuple[str, str]] = {}  # service → (unit, direction), for ever
        self._lines: dict[tuple[OfferId, str], tuple[int, Terms, Terms]] = {}
        self._current: Offer | None = None
        self._newest: Offer | None = None
        for entry in sorted(entries, key=lambda entry: entry.offer.serial):
            self._check(entry.offer)
            self._add(entry)
            if entry.superseded_at is None:
                self._current = entry.offer

    @property
    def current(self) -> Offer | None:
        """The offer that is published now; None before the first."""
        return self._current

    @property
    def known(self) -> Mapping[OfferId, KnownOffer]:
        """All offers by id."""
        return self._known

    def supersede(self, new: Offer, chain_time: int) -> None:
        """Make `new` the current offer from `chain_time` (chain seconds) on.

        Raises OfferRejected if it is of another gateway, chain or asset, its serial does not rise, it is not yet
        or no longer valid, or a service would change its unit or direction.
        """
        self._check(new)
        if not new.valid_from <= chain_time <= new.valid_until:
            raise OfferRejected(f"offer {new.serial} is not valid at chain time {chain_time}")
        if self._current is not None:
            self._add(KnownOffer(self._current, chain_time))
        self._add(KnownOffer(new))
        self._current = new

    def _check(self, new: Offer) -> None:
        last = self._newest
        if last is not None:
            if new.serial <= last.serial:
                raise OfferRejected(f"serial {new.serial} does not rise above {last.serial}")
            if (new.gateway, new.network, new.asset) != (last.gateway, last.network, last.asset):
                raise OfferRejected("gateway, network and asset never change")
        for name, service in new.services.items():
            unit, direction = self._units.get(name, (service.unit, service.direction))
            if service.unit != unit:
                raise OfferRejected(
                    f"service {name} is metered in {unit} for ever, not in {service.unit}: "
                    "give the new service another name"
                )
            if service.direction != direction:
                raise OfferRejected(f"service {name} is {direction} for ever: give the new one another name")

    def _add(self, entry: KnownOffer) -> None:
        offer = entry.offer
        self._known[offer.id] = entry
        self._newest = offer
        for name, service in offer.services.items():
            self._units.setdefault(name, (service.unit, service.direction))
            self._lines[offer.id, name] = (
                entry.usable_until,
                _terms(offer, service, expired=False),
                _terms(offer, service, expired=True),
            )
        if len(self._known) > KNOWN_MAX:
            oldest = next(iter(self._known.values())).offer
            del self._known[oldest.id]
            for name in oldest.services:
                del self._lines[oldest.id, name]

    def terms(self, offer: OfferId, service: str, chain_time: int) -> Terms | None:
        """Return one service's line in an offer, marked expired or not; None when there is no such line."""
        line = self._lines.get((offer, service))
        if line is None:
            return None
        usable_until, fresh, expired = line
        return fresh if chain_time <= usable_until else expired

    def is_usable(self, offer: OfferId, chain_time: int) -> bool:
        """Tell whether a known offer may still be used."""
        return chain_time <= self._known[offer].usable_until

    def service(self, name: str) -> tuple[str, str] | None:
        """Return (unit, direction) of a service that any known offer sold, or None."""
        return self._units.get(name)


def _terms(offer: Offer, service: Service, *, expired: bool) -> Terms:
    return Terms(offer.id, offer.serial, service.price, service.max_step, offer.max_ahead, expired)
