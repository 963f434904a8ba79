"""What is fixed when a device is made or installed: who it is, whose money it spends, whom it believes."""

from dataclasses import dataclass

from firmware_sim.keys import Key
from firmware_sim.wire import Encoding


@dataclass(frozen=True, slots=True)
class Identity:
    """One metered service of one device.

    meter_key signs vouchers and readings (payerAuthorizer, or meterKey when earning); owner_key is the payer
    or the payee. opening_register is where billing begins, in register units. deposit is the amount of one
    deposit, wallet the most that the owner lets this device deposit in all, low_water the free balance that
    calls for a top-up; all in token base units.
    """

    gateway: str
    device: str
    service: str
    earns: bool
    meter_key: Key
    owner_key: Key
    salt: bytes
    opening_register: int = 0
    encoding: Encoding = "json"
    sign_readings: bool = False
    bind: bool = True
    deposit: int = 0
    wallet: int = 0
    low_water: int = 0


@dataclass(frozen=True, slots=True)
class Provisioning:
    """Whose offers to believe; None means any value until the first offer pins it (only with trust_first)."""

    trust_first: bool = True
    authorizer: bytes | None = None
    network: str | None = None
    asset: bytes | None = None
