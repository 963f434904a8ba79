"""Who may pay and earn here: devices, their channels and their accounts.

Plain memory, rebuilt from the journal at start. Nothing here decides what is allowed: `devices.enrolment` does.
Methods that would pass a bound or contradict what is known raise RegistryError, a fault of the caller, who has
the rules checked first.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

from channels.types import AccountId, Address, ChannelId

# One gateway serves a site or a street; more devices mean more gateways (each with its own journal).
DEVICES_MAX = 100_000
# A device meters a handful of services, and a payer may change once in a while.
CHANNELS_PER_DEVICE_MAX = 16
ACCOUNTS_PER_DEVICE_MAX = 16
PAYERS_PER_DEVICE_MAX = 16
# Deposit nonces remembered per channel, newest last: the chain knows the older ones too.
DEPOSITS_PER_CHANNEL_MAX = 64


class RegistryError(Exception):
    """A change that contradicts what is registered: the rules were not asked first."""


@dataclass(slots=True)
class Device:
    """One device: what the operator wrote about it and what is bound to it."""

    id: str
    note: str = ""
    payers: set[Address] = field(default_factory=set)  # the operator enrolled the device with these
    channels: list[ChannelId] = field(default_factory=list)
    accounts: list[AccountId] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Binding:
    """What a channel or an account is bound to, for ever."""

    device: str
    service: str


@dataclass(frozen=True, slots=True)
class Pending:
    """A deposit on its way to the chain."""

    channel: ChannelId
    service: str
    nonce: bytes  # of the ERC-3009 authorization, 32 bytes


class Registry:
    """All of one gateway. Not thread-safe: one task owns it."""

    __slots__ = (
        "_account_bindings",
        "_channel_bindings",
        "_deposits",
        "_devices",
        "_enrolled_accounts",
        "_joining",
        "_pending",
        "_reserved",
        "devices_max",
    )

    def __init__(self, devices_max: int = DEVICES_MAX) -> None:
        self.devices_max = devices_max
        self._devices: dict[str, Device] = {}
        self._channel_bindings: dict[ChannelId, Binding] = {}
        self._account_bindings: dict[AccountId, Binding] = {}
        self._enrolled_accounts: set[AccountId] = set()
        self._deposits: dict[ChannelId, dict[bytes, None]] = {}  # an ordered set
        self._pending: dict[str, Pending] = {}
        self._joining: set[str] = set()  # devices not known yet whose first deposit is under way
        self._reserved: dict[ChannelId, Binding] = {}  # channels of first deposits under way

    # Devices

    @property
    def devices(self) -> Iterable[Device]:
        """All devices, in the order in which they came."""
        return self._devices.values()

    @property
    def full(self) -> bool:
        """True when no further device can be let in; those that are joining have their place already."""
        return len(self._devices) + len(self._joining) >= self.devices_max

    def device(self, device: str) -> Device | None:
        """Return a device, or None."""
        return self._devices.get(device)

    def add_device(self, device: str, note: str = "") -> Device:
        """Add a device, or change the note of a known one if a note is given. Raises RegistryError when full."""
        known = self._devices.get(device)
        if known is None:
            if self.full and device not in self._joining:
                raise RegistryError(f"{self.devices_max} devices are registered, the most there can be")
            known = self._devices[device] = Device(device, note)
        elif note:
            known.note = note
        return known

    def enrol_payer(self, device: str, payer: Address) -> None:
        """The operator lets `device` open channels of this payer without a binding signature."""
        payers = self.add_device(device).payers
        if payer not in payers and len(payers) >= PAYERS_PER_DEVICE_MAX:
            raise RegistryError(f"device {device} has {PAYERS_PER_DEVICE_MAX} payers, the most there can be")
        payers.add(payer)

    def enrol_account(self, account: AccountId) -> None:
        """The operator allows this very earner account (its id names device, service, payee and meter key)."""
        self._enrolled_accounts.add(account)

    def is_enrolled_account(self, account: AccountId) -> bool:
        """Tell whether the operator allowed this earner account."""
        return account in self._enrolled_accounts

    # Channels

    def binding(self, channel: ChannelId) -> Binding | None:
        """Return what a channel is bound to, or reserved for while its first deposit is under way."""
        return self._channel_bindings.get(channel) or self._reserved.get(channel)

    def is_bound(self, channel: ChannelId) -> bool:
        """Tell whether a channel is bound: it was opened here once."""
        return channel in self._channel_bindings

    def bind_channel(self, channel: ChannelId, device: str, service: str) -> None:
        """Bind a channel to a device and a service. Again the same is a no-op."""
        binding = Binding(device, service)
        known = self._channel_bindings.get(channel)
        if known == binding:
            return
        if known is not None:
            raise RegistryError(f"channel 0x{channel.hex()} is bound to {known.device}/{known.service}")
        channels = self.add_device(device).channels
        if len(channels) >= CHANNELS_PER_DEVICE_MAX:
            raise RegistryError(f"device {device} has {CHANNELS_PER_DEVICE_MAX} channels")
        channels.append(channel)
        self._channel_bindings[channel] = binding

    def channels_of(self, device: str) -> tuple[ChannelId, ...]:
        """Return the channels bound to a device."""
        known = self._devices.get(device)
        return () if known is None else tuple(known.channels)

    # Deposits: one in flight per device

    def pending(self, device: str) -> Pending | None:
        """Return the device's deposit in flight, or None."""
        return self._pending.get(device)

    def begin_deposit(self, device: str, channel: ChannelId, service: str, nonce: bytes) -> None:
        """Note that a deposit goes to the chain. The channel of a first one is reserved until it ends."""
        if device in self._pending:
            raise RegistryError(f"device {device} has a deposit in flight")
        binding = Binding(device, service)
        known = self.binding(channel)
        if known is not None and known != binding:
            raise RegistryError(f"channel 0x{channel.hex()} is bound to {known.device}/{known.service}")
        self._pending[device] = Pending(channel, service, nonce)
        if device not in self._devices:
            self._joining.add(device)
        if known is None:
            self._reserved[channel] = binding

    def deposit_final(self, device: str) -> Pending:
        """The device's deposit is final: bind the channel and remember the nonce."""
        pending = self._end(device)
        self.bind_channel(pending.channel, device, pending.service)
        self.remember_deposit(pending.channel, pending.nonce)
        return pending

    def deposit_failed(self, device: str) -> Pending:
        """The device's deposit will not happen: forget it, and the reservation with it."""
        return self._end(device)

    def _end(self, device: str) -> Pending:
        pending = self._pending.pop(device, None)
        if pending is None:
            raise RegistryError(f"device {device} has no deposit in flight")
        self._reserved.pop(pending.channel, None)
        self._joining.discard(device)
        return pending

    def remember_deposit(self, channel: ChannelId, nonce: bytes) -> None:
        """Remember a deposit that was credited, so that the same `open` again is a duplicate."""
        nonces = self._deposits.setdefault(channel, {})
        nonces[nonce] = None
        if len(nonces) > DEPOSITS_PER_CHANNEL_MAX:
            del nonces[next(iter(nonces))]

    def knows_deposit(self, channel: ChannelId, nonce: bytes) -> bool:
        """Tell whether this deposit was credited already."""
        return nonce in self._deposits.get(channel, ())

    # Earner accounts

    def account_binding(self, account: AccountId) -> Binding | None:
        """Return what an earner account is bound to, or None for an unknown one."""
        return self._account_bindings.get(account)

    def bind_account(self, account: AccountId, device: str, service: str) -> None:
        """Open an earner account; its payee's signature was verified. Again the same is a no-op."""
        binding = Binding(device, service)
        known = self._account_bindings.get(account)
        if known == binding:
            return
        if known is not None:
            raise RegistryError(f"account 0x{account.hex()} is bound to {known.device}/{known.service}")
        accounts = self.add_device(device).accounts
        if len(accounts) >= ACCOUNTS_PER_DEVICE_MAX:
            raise RegistryError(f"device {device} has {ACCOUNTS_PER_DEVICE_MAX} earner accounts")
        accounts.append(account)
        self._account_bindings[account] = binding
