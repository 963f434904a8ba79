"""Which offers a device believes, and under which one it prices a reading (docs/protocol.md 2 and 3)."""

from dataclasses import dataclass, field

from firmware_sim.identity import Identity, Provisioning
from firmware_sim.offers import Offer, Terms, read_offer

OFFERS_KEPT = 4  # current and superseded ones: queued readings rarely span more tariff changes


@dataclass(slots=True)
class Known:
    """A believed offer; since_us is when a newer one replaced it here, 0 while it is the current one."""

    offer: Offer
    since_us: int = 0


@dataclass(slots=True)
class Tariffs:
    """Offers of one gateway. authorizer, network, asset are pinned by provisioning or by the first offer.

    serial: the highest seen, also before a restart.
    """

    identity: Identity
    trust_first: bool
    authorizer: bytes | None
    network: str | None
    asset: bytes | None
    current: Offer | None = None
    known: dict[bytes, Known] = field(default_factory=dict)
    serial: int = 0

    @classmethod
    def provisioned(cls, identity: Identity, by: Provisioning) -> "Tariffs":
        """A device fresh from the factory."""
        return cls(identity, by.trust_first, by.authorizer, by.network, by.asset)

    def take(self, payload: bytes, now_us: int) -> bool:
        """Make a published offer the current one; False when it is ignored."""
        try:
            offer = read_offer(payload)
        except ValueError:
            return False
        if not self._believes(offer, now_us):
            return False
        if self.current is not None:
            self.known[self.current.id].since_us = now_us
        self.authorizer, self.network, self.asset = offer.authorizer, offer.network, offer.asset
        self.current = offer
        self.serial = offer.serial
        self.known[offer.id] = Known(offer)
        while len(self.known) > OFFERS_KEPT:
            del self.known[next(iter(self.known))]
        return True

    def _believes(self, offer: Offer, now_us: int) -> bool:
        if offer.gateway != self.identity.gateway or offer.valid_until * 1_000_000 < now_us:
            return False
        if self.authorizer is None and not self.trust_first:
            return False
        pins = (self.authorizer, self.network, self.asset)
        for pinned, offered in zip(pins, (offer.authorizer, offer.network, offer.asset), strict=True):
            if pinned is not None and pinned != offered:
                return False
        return offer.serial > self.serial or (self.current is None and offer.serial == self.serial)

    def refused(self, offer: bytes) -> None:
        """The gateway does not take readings under this superseded offer any more, whatever the clock here says."""
        if self.current is not None and offer != self.current.id:
            self.known.pop(offer, None)

    def terms(self, offer: Offer | None) -> Terms | None:
        """The terms of this device's service, if the offer has it in this device's direction."""
        terms = offer.services.get(self.identity.service) if offer else None
        return terms if terms is not None and terms.earns == self.identity.earns else None

    def for_reading(self, taken_under: bytes, now_us: int) -> Offer | None:
        """The offer of the time of reading while it is safely within its grace, else the current one."""
        then = self.known.get(taken_under)
        if then is None or then.offer is self.current:
            return self.current
        # Half the grace: the other half is for clocks and the way to the gateway.
        usable = now_us - then.since_us < then.offer.grace * 500_000
        return then.offer if usable and self.terms(then.offer) else self.current
