"""Who is in a fleet: devices, owners, keys and money, all from a seed or from a file of real readings."""

from dataclasses import dataclass
from random import Random
from typing import Literal

from firmware_sim.books import NANO
from firmware_sim.identity import Identity
from firmware_sim.keys import derive_key, keccak
from firmware_sim.loads import HOUR_S, Charger, Household, Meter, Rooftop, Sensor, WaterMeter
from firmware_sim.replay import Track

Kind = Literal["home", "pv", "water", "ev", "air", "replay"]

TOKEN = 10**6  # base units of one token of 6 decimals

SERVICE_OF: dict[Kind, str] = {
    "home": "grid-power",
    "pv": "solar-export",
    "water": "water",
    "ev": "ev-charging",
    "air": "air-quality",
    "replay": "grid-power",
}
EARNING: frozenset[Kind] = frozenset({"pv", "air"})

# A neighbourhood of twelve, repeated: six homes, two rooftops (one home in three), two water meters, a
# charger and a sensor. The order puts an owner of both sides first, so that a fleet of two can net.
_PATTERN: tuple[Kind, ...] = (
    "home", "pv", "water", "home", "ev", "home", "home", "pv", "air", "home", "water", "home",
)  # fmt: skip

# One deposit and all deposits of a device. A deposit lasts about a demo day, so that top-ups are seen now and then.
_DEPOSIT: dict[Kind, int] = {"home": 3 * TOKEN, "water": 3 * TOKEN, "ev": 10 * TOKEN}
_WALLET: dict[Kind, int] = {"home": 1_000 * TOKEN, "water": 1_000 * TOKEN, "ev": 10_000 * TOKEN}

# Spare money of a replayed device beyond its day, for an operator whose smallest deposit is larger than that.
_REPLAY_SPARE = 20 * TOKEN

# Simulated time starts in the late morning: homes, sun and cars are all active.
START_S = 10 * HOUR_S + HOUR_S // 2


@dataclass(frozen=True, slots=True)
class Member:
    """One device of a fleet; owner names the party. deposit, wallet, low_water in token base units."""

    device: str
    kind: Kind
    owner: str
    opening_register: int
    deposit: int
    wallet: int
    low_water: int

    @property
    def service(self) -> str:
        """The service that this kind of device meters."""
        return SERVICE_OF[self.kind]

    @property
    def earns(self) -> bool:
        """Whether the gateway pays this device."""
        return self.kind in EARNING


@dataclass(frozen=True, slots=True)
class Options:
    """Choices that hold for every device of a fleet."""

    gateway: str = "gw1"
    seed: int = 1
    sign_readings: bool = False
    bind: bool = True


def fleet(devices: int, seed: int) -> list[Member]:
    """`devices` members in the proportions of the pattern."""
    members: list[Member] = []
    counts: dict[Kind, int] = {}
    for index in range(devices):
        kind = _PATTERN[index % len(_PATTERN)]
        number = counts[kind] = counts.get(kind, 0) + 1
        device = f"{kind}-{number:03d}"
        deposit = _DEPOSIT.get(kind, 0)
        members.append(
            Member(
                device=device,
                kind=kind,
                owner=_owner(kind, number, device),
                opening_register=0 if kind == "air" else Random(f"{seed}/{device}/register").randrange(90_000),
                deposit=deposit,
                wallet=_WALLET.get(kind, 0),
                low_water=deposit // 4,
            )
        )
    return members


def _owner(kind: Kind, number: int, device: str) -> str:
    """Homes own themselves, every third home a rooftop, others a charger, every second water meter is a home's."""
    if kind == "pv":
        return f"home-{3 * number - 2:03d}"
    if kind == "ev":
        return f"home-{3 * number - 1:03d}"
    if kind == "water" and number % 2:
        return f"home-{number:03d}"
    return device


def replay_fleet(tracks: list[Track], price: int) -> list[Member]:
    """One member per (day, meter); each day is a party. `price` in 10⁻⁹ base units per Wh sizes the deposit."""
    members = []
    for track in tracks:
        cost = track.total * price // NANO + 1
        members.append(
            Member(
                device=track.device,
                kind="replay",
                owner=f"day-{track.day:02d}",
                opening_register=0,
                deposit=cost,
                wallet=2 * cost + _REPLAY_SPARE,
                low_water=0,
            )
        )
    return members


def identity_of(member: Member, options: Options) -> Identity:
    """Keys, salt and encoding of a member: the same seed makes the same device."""
    seed, device = options.seed, member.device
    return Identity(
        gateway=options.gateway,
        device=device,
        service=member.service,
        earns=member.earns,
        meter_key=derive_key(seed, f"meter/{device}"),
        owner_key=derive_key(seed, f"owner/{member.owner}"),
        salt=keccak(f"firmware-sim/{seed}/salt/{options.gateway}/{device}".encode()),
        opening_register=member.opening_register,
        encoding="cbor" if Random(f"{seed}/{device}/encoding").random() < 0.5 else "json",
        sign_readings=options.sign_readings,
        bind=options.bind,
        deposit=member.deposit,
        wallet=member.wallet,
        low_water=member.low_water,
    )


def meter_of(member: Member, seed: int) -> Meter:
    """The simulated meter of a member of `fleet`."""
    random = Random(f"{seed}/{member.device}/load")
    register = member.opening_register
    if member.kind == "home":
        return Household(random, register, START_S)
    if member.kind == "pv":
        return Rooftop(random, register, START_S)
    if member.kind == "water":
        return WaterMeter(random, register, START_S)
    if member.kind == "ev":
        return Charger(random, register, START_S)
    return Sensor(register)


def addresses(members: list[Member], seed: int) -> list[dict[str, str]]:
    """Who needs how many base units before the fleet starts; an owner of several devices is listed several times."""
    return [
        {
            "device": member.device,
            "service": member.service,
            "payee" if member.earns else "payer": "0x" + derive_key(seed, f"owner/{member.owner}").address.hex(),
            "tokens": str(member.wallet),
        }
        for member in members
    ]
