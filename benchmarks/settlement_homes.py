"""Who settles in a measurement: homes with a day of readings behind them, on a gateway that has started.

Deposits are real transactions of a stranger, in blocks of their own. What the devices did comes in as the records
that the gateway's pipeline writes, signed vouchers included, because not they are measured here.
"""

import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from parallel_evm import Chain

from benchmarks.load import NETWORK, config_of
from benchmarks.population import CHAIN_ID, member
from channels.digests import account_id, channel_id, deposit_digest, voucher_digest
from channels.pricing import charge
from channels.signatures import key_address, sign
from channels.state import Account, ActionOpen, Meter
from channels.types import (
    COLLECTOR_ADDRESS,
    SETTLEMENT_ADDRESS,
    Address,
    Authorization,
    ChannelConfig,
    TokenDomain,
)
from devices.offers import Offer
from gateway.config import ServiceConfig
from gateway.records import AccountOpened, ChannelTaken, Charged, Earned, Record
from gateway.service import Gateway
from settlement.calls import collector_data, deposit
from settlement.transactions import Transaction, sign_transaction

PAYS, EARNS = "grid-power", "solar-export"
SERVICES = {
    PAYS: ServiceConfig(unit="Wh", price="150000000000"),
    EARNS: ServiceConfig(unit="Wh", price="80000000000", direction="earn"),
}
# Base units per channel: more than any home here uses in a day.
DEPOSIT = 20 * 10**6
DEPOSITOR_KEY = bytes(31) + b"\x0d"
DEPOSIT_GAS = 250_000
GWEI = 10**9
FOREVER = 2**40
# Transactions handed over at once, and records in one commit of the journal.
PORTION = 2_000
RECORDS = 512
QUARTERS = 96
FEE_BPS = 100


@dataclass(frozen=True, slots=True)
class Home:
    """A home's day in Wh, and where what it exports is paid: at its own payer's address, or at another."""

    number: int
    imported: int
    exported: int
    payee: Address | None

    @property
    def payer(self) -> Address:
        """The address that pays for what it imports."""
        return member(self.number).address


def neighbourhood(homes: int, *, netted: bool) -> list[Home]:
    """Return homes with rooftop PV after a day of sun and clouds; the same day whether they are netted or not."""
    rng = random.Random(20_260_301)
    clear = [rng.uniform(0.35, 1.0) for _ in range(QUARTERS)]
    drawn = []
    for number in range(homes):
        imported, exported = _day(rng, clear)
        payee = member(number).address if netted else member(10**6 + number).address
        drawn.append(Home(number, imported, exported, payee))
    return drawn


def payers(channels: int) -> list[Home]:
    """Return homes that only pay."""
    rng = random.Random(channels)
    return [Home(number, rng.randrange(100, 20_000), 0, None) for number in range(channels)]


def _day(rng: random.Random, clear: Sequence[float]) -> tuple[int, int]:
    """Return Wh imported and exported in a day, metered by quarters of an hour."""
    daily_wh = rng.lognormvariate(math.log(9_000), 0.45)
    peak_w = rng.uniform(1_500, 7_000)
    imported = exported = 0.0
    for quarter in range(QUARTERS):
        hour = quarter * 24 / QUARTERS
        shape = 0.5 + 1.3 * math.exp(-((hour - 7.5) ** 2) / 3) + 2.2 * math.exp(-((hour - 19.5) ** 2) / 6)
        used = daily_wh / QUARTERS * shape / 0.95 * rng.uniform(0.4, 1.6)
        sun = max(0.0, math.sin(math.pi * (hour - 6) / 12)) if 6 <= hour <= 18 else 0.0
        made = peak_w / 4 * sun * clear[quarter] * rng.uniform(0.9, 1.1)
        imported += max(0.0, used - made)
        exported += max(0.0, made - used)
    return int(imported), int(exported)


def funded(homes: Sequence[Home]) -> dict[Address, int]:
    """Return the tokens that the genesis gives to payers."""
    return {home.payer: DEPOSIT for home in homes}


async def move_in(gateway: Gateway, chain: Chain, homes: Sequence[Home]) -> None:
    """Fund the channels and journal what the devices did, on a gateway that has started and does not run yet."""
    offer = gateway.terms.current
    configs = [config_of(member(home.number), offer) for home in homes]
    ids = [channel_id(config, NETWORK) for config in configs]
    _deposit(chain, offer, homes, configs, ids)
    await gateway.watcher.step()
    position = (gateway.watcher.block + 1 << 32) - 1
    records = (
        record
        for home, config, identifier in zip(homes, configs, ids, strict=True)
        for record in _history(home, config, identifier, offer, position)
    )
    for portion in _portions(records):
        await gateway.books.write(portion)


def _portions(records: Iterator[Record]) -> Iterator[list[Record]]:
    portion: list[Record] = []
    for record in records:
        portion.append(record)
        if len(portion) >= RECORDS:
            yield portion
            portion = []
    if portion:
        yield portion


def _deposit(
    chain: Chain, offer: Offer, homes: Sequence[Home], configs: Sequence[ChannelConfig], ids: Sequence[bytes]
) -> None:
    token = TokenDomain(offer.asset, offer.asset_name, offer.asset_version)
    sender = key_address(DEPOSITOR_KEY)
    nonce = chain.nonce(sender)
    raws: list[bytes] = []
    for home, config, identifier in zip(homes, configs, ids, strict=True):
        digest = deposit_digest(identifier, home.payer, DEPOSIT, 0, FOREVER, 1, token, CHAIN_ID)
        signature = sign(digest, member(home.number).key)
        data = deposit(config, DEPOSIT, COLLECTOR_ADDRESS, collector_data(Authorization(0, FOREVER, 1, signature)))
        transaction = Transaction(CHAIN_ID, nonce + len(raws), 0, GWEI, DEPOSIT_GAS, SETTLEMENT_ADDRESS, 0, data)
        raws.append(sign_transaction(transaction, DEPOSITOR_KEY).raw)
    for start in range(0, len(raws), PORTION):
        chain.send_raw_transactions(raws[start : start + PORTION])
        while chain.pending_count:
            chain.produce_block()


def _history(home: Home, config: ChannelConfig, identifier: bytes, offer: Offer, position: int) -> Iterator[Record]:
    """Yield what a gateway journals of a home: its channel, its reading, its account and what that earned."""
    device = member(home.number).device
    yield ChannelTaken(
        ActionOpen(
            id=identifier,
            config=config,
            device=device,
            service=PAYS,
            lane=offer.lane(home.payer),
            register=0,
            offer=offer.id,
            offer_serial=offer.serial,
            balance=DEPOSIT,
            claimed=0,
            withdrawing=0,
            position=position,
            funded=True,
        )
    )
    charged, remainder = charge(0, home.imported, offer.services[PAYS].price)
    signature = sign(voucher_digest(identifier, charged, NETWORK), member(home.number).key)
    yield Charged(
        id=identifier,
        seq=1,
        register=home.imported,
        time=0,
        offer=offer.id,
        ceiling=charged,
        signature=signature,
        reading_signature=b"",
        charged=charged,
        remainder=remainder,
        balance=DEPOSIT,
        offset=0,
        held_ceiling=charged,
        held_signature=b"",
    )
    if home.payee is not None:
        yield from _earned(home, home.payee, offer)


def _earned(home: Home, payee: Address, offer: Offer) -> Iterator[Record]:
    device = member(home.number).device + "-roof"
    identifier = account_id(offer.gateway, device, EARNS, payee, home.payer, bytes(32), NETWORK)
    yield AccountOpened(Account(identifier, device, EARNS, payee, home.payer, Meter(0, 0, 0, offer.id, offer.serial)))
    earned, remainder = charge(0, home.exported, offer.services[EARNS].price)
    yield Earned(
        id=identifier,
        seq=1,
        register=home.exported,
        time=0,
        offer=offer.id,
        reading_signature=b"",
        fee_basis_points=FEE_BPS,
        earned=earned,
        remainder=remainder,
        offset=0,
    )
