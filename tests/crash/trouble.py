"""What happens around a gateway while it is killed: devices join, top up, close and leave, chain and line err."""

import random
from collections.abc import Callable

from channels.digests import channel_id, deposit_digest, voucher_digest
from channels.signatures import key_address, sign
from channels.types import COLLECTOR_ADDRESS, SETTLEMENT_ADDRESS, Authorization, ChannelConfig, Network, TokenDomain
from settlement import calls
from settlement.genesis import TOKEN_ADDRESS
from tests.crash.fleet import Fleet
from tests.crash.inspector import Inspector
from tests.crash.site import CHAIN_ID, PAYERS, TOKEN, Site, payer_name
from tests.support.gateway_devices import FOREVER, Earner, Payer, secret

SEND, RECEIPT, LOGS, CALL = "eth_sendRawTransaction", "eth_getTransactionReceipt", "eth_getLogs", "eth_call"
CLAIM = calls.claim([])[:4]  # its selector
ACTIVE_PAYERS, ACTIVE_EARNERS = 9, 5
FIRST_PAYERS, FIRST_EARNERS = 4, 2


class Troubles:
    """Seeded events of one site. Each `stir` lets a few happen."""

    def __init__(self, site: Site, fleet: Fleet, inspector: Inspector, rng: random.Random) -> None:
        self._site = site
        self._fleet = fleet
        self._inspector = inspector
        self._rng = rng
        self._payers = 0
        self._earners = 0
        self._foreign = 0
        self._acts: tuple[tuple[float, Callable[[], None]], ...] = (
            (0.25, self._join_payer),
            (0.15, self._join_earner),
            (0.30, self._top_up),
            (0.25, self._close),
            (0.25, self._reopen),
            (0.10, self._withdraw),
            (0.15, self._give),
            (0.08, self._claim_as_a_stranger),
            (0.20, self._bad_row),
            (0.30, self._bad_line),
            (0.35, self._reorganise),
        )

        # What has to happen before a point is passed, by a part of its name.
        self._leading_to: tuple[tuple[tuple[str, ...], Callable[[], None]], ...] = (
            (("open", "channel", "deposit"), self._join_payer),
            (("account", "payees"), self._join_earner),
            (("clos", "claims", "refund"), self._close),
            (("cash",), self._give),
            (("foreign",), self._claim_as_a_stranger),
            (("foreseen",), self._withdraw),
            (("aside",), self._bad_row),
            (("reverted", "unmined"), self._reorganise),
        )

    def begin(self) -> None:
        """Switch the first devices on: payers, earners, and a home that does both."""
        for _ in range(FIRST_PAYERS):
            self._join_payer()
        for _ in range(FIRST_EARNERS):
            self._join_earner()

    def stir(self, point: str | None) -> None:
        """Let some of it happen, and whatever leads to the point at which this life is to end."""
        self._site.proxy.clear()
        name = "" if point is None else point.split()[-1]
        needed = [act for names, act in self._leading_to if any(each in name for each in names)]
        chosen = [act for share, act in self._acts if self._rng.random() < share]
        for act in dict.fromkeys([*needed, *chosen]):
            act()

    def _one(self, state: str, *, pays: bool, least: int = 1) -> str | None:
        names = self._fleet.named(state, pays=pays)
        return self._rng.choice(sorted(names)) if len(names) >= least else None

    # -- devices --

    def _join_payer(self) -> None:
        offer = self._fleet.offer
        assert offer is not None, "a gateway that runs has an offer"
        if self._fleet.active(pays=True) < ACTIVE_PAYERS and self._payers < PAYERS:
            payer = Payer(payer_name(self._payers), offer)
            self._payers += 1
            self._inspector.add(payer)
            self._fleet.add(payer)

    def _join_earner(self) -> None:
        offer = self._fleet.offer
        assert offer is not None, "a gateway that runs has an offer"
        if self._fleet.active(pays=False) < ACTIVE_EARNERS + self._earners // 8 and self._payers:
            home = payer_name(self._rng.randrange(self._payers))
            payee = secret(f"payer of {home}") if self._earners % 2 else b""
            earner = Earner(f"solar-{self._earners}", offer, payee_key=payee)
            self._earners += 1
            self._inspector.add(earner)
            self._fleet.add(earner)

    def _top_up(self) -> None:
        if device := self._one("open", pays=True):
            self._fleet.wish(device, "open")

    def _close(self) -> None:
        if device := self._one("open", pays=True, least=3):
            self._fleet.wish(device, "close")

    def _reopen(self) -> None:
        if device := self._one("closed", pays=True):
            self._fleet.wish(device, "open")

    # -- others on the chain --

    def _withdraw(self) -> None:
        """A payer starts to take its money back, and its device falls silent."""
        device = self._one("open", pays=True, least=3)
        if device is None:
            return
        payer = self._fleet.meters[device].body
        assert isinstance(payer, Payer)
        balance, claimed = self._site.observer.channel(payer.id)
        if self._site.observer.pending(payer.id) == (0, 0) and balance > claimed:
            amount = self._rng.randint(1, balance - claimed)
            self._site.transact(payer.payer_key, SETTLEMENT_ADDRESS, calls.initiate_withdraw(payer.config, amount))
            self._fleet.wish(device, "retire")

    def _give(self) -> None:
        keys = self._site.keys
        to = self._rng.choice([keys.treasury.address, *(lane.address for lane in keys.lanes), SETTLEMENT_ADDRESS])
        self._site.transact(secret("stranger"), TOKEN_ADDRESS, calls.transfer(to, self._rng.randint(1, 1_000)))

    def _claim_as_a_stranger(self) -> None:
        """Somebody claims a channel of his own for one of our lanes."""
        key, stranger = secret("stranger"), key_address(secret("stranger"))
        self._foreign += 1
        lane = self._rng.choice(self._site.keys.lanes).address
        salt = self._foreign.to_bytes(32, "big")
        config = ChannelConfig(stranger, stranger, lane, stranger, TOKEN_ADDRESS, 900, salt)
        network = Network(CHAIN_ID)
        identifier = channel_id(config, network)
        domain = TokenDomain(TOKEN_ADDRESS, "USD Coin", "2")
        digest = deposit_digest(identifier, stranger, TOKEN, 0, FOREVER, 1, domain, CHAIN_ID)
        given = calls.collector_data(Authorization(0, FOREVER, 1, sign(digest, key)))
        self._site.transact(key, SETTLEMENT_ADDRESS, calls.deposit(config, TOKEN, COLLECTOR_ADDRESS, given))
        total = self._rng.randint(1, TOKEN)
        row = calls.VoucherClaim(config, total, sign(voucher_digest(identifier, total, network), key), total)
        self._site.transact(key, SETTLEMENT_ADDRESS, calls.claim([row]))

    # -- the chain and its line --

    def _bad_row(self) -> None:
        """For a while, every batch with one payer's channel would revert."""
        if device := self._one("open", pays=True):
            payer = self._fleet.meters[device].body
            assert isinstance(payer, Payer)
            self._site.proxy.inject("reverts", "eth_estimateGas", times=8, markers=(CLAIM, payer.payer))

    def _bad_line(self) -> None:
        kind = self._rng.choice(["reply lost", "request lost", "reset after", "truncated", "status"])
        method = self._rng.choice([SEND, SEND, RECEIPT, LOGS, CALL])
        skip = self._rng.randrange(3)
        self._site.proxy.inject(kind, method, times=1, skip=skip, amount=502)

    def _reorganise(self) -> None:
        if self._site.reorgs and self._site.observer.head > 10:
            self._site.proxy.reorganise(self._rng.randint(1, 5))
