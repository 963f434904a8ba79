import pytest

from devices.registry import (
    ACCOUNTS_PER_DEVICE_MAX,
    CHANNELS_PER_DEVICE_MAX,
    DEPOSITS_PER_CHANNEL_MAX,
    PAYERS_PER_DEVICE_MAX,
    Binding,
    Registry,
    RegistryError,
)


def word(number: int) -> bytes:
    return number.to_bytes(32, "big")


A, B, C = word(1), word(2), word(3)
PAYER = b"\x0a" * 20


def test_devices() -> None:
    registry = Registry()
    assert registry.device("m1") is None
    registry.add_device("m1", "roof")
    registry.add_device("m1")
    assert [device.note for device in registry.devices] == ["roof"]
    registry.add_device("m1", "cellar")
    registry.enrol_payer("m2", PAYER)
    known = registry.device("m2")
    assert known is not None
    assert known.payers == {PAYER}
    assert [device.id for device in registry.devices] == ["m1", "m2"]


def test_the_device_bound() -> None:
    registry = Registry(devices_max=2)
    registry.add_device("m1")
    registry.begin_deposit("m2", A, "water", word(9))
    assert registry.full
    with pytest.raises(RegistryError, match="2 devices"):
        registry.add_device("m3")
    registry.add_device("m1", "still here")
    # The joining device has its place whatever comes in between.
    registry.deposit_final("m2")
    assert registry.full
    assert registry.channels_of("m2") == (A,)


def test_a_failed_first_deposit_gives_its_place_back() -> None:
    registry = Registry(devices_max=1)
    registry.begin_deposit("m1", A, "water", word(9))
    assert registry.full
    assert registry.binding(A) == Binding("m1", "water")
    assert not registry.is_bound(A)
    registry.deposit_failed("m1")
    assert not registry.full
    assert registry.binding(A) is None
    assert registry.pending("m1") is None
    assert not registry.knows_deposit(A, word(9))


def test_a_deposit_binds_when_it_is_final() -> None:
    registry = Registry()
    registry.begin_deposit("m1", A, "water", word(9))
    pending = registry.pending("m1")
    assert pending is not None
    assert (pending.channel, pending.service, pending.nonce) == (A, "water", word(9))
    with pytest.raises(RegistryError, match="in flight"):
        registry.begin_deposit("m1", B, "water", word(10))
    with pytest.raises(RegistryError, match="m1/water"):
        registry.begin_deposit("m2", A, "water", word(10))
    assert registry.deposit_final("m1") == pending
    assert registry.is_bound(A)
    assert registry.knows_deposit(A, word(9))
    assert not registry.knows_deposit(B, word(9))
    with pytest.raises(RegistryError, match="no deposit"):
        registry.deposit_final("m1")
    # A top-up that fails leaves the channel bound.
    registry.begin_deposit("m1", A, "water", word(11))
    registry.deposit_failed("m1")
    assert registry.binding(A) == Binding("m1", "water")


@pytest.mark.parametrize(("device", "service"), [("m2", "water"), ("m1", "power")])
def test_a_channel_is_bound_for_ever(device: str, service: str) -> None:
    registry = Registry()
    registry.bind_channel(A, "m1", "water")
    registry.bind_channel(A, "m1", "water")
    assert registry.channels_of("m1") == (A,)
    with pytest.raises(RegistryError, match="m1/water"):
        registry.bind_channel(A, device, service)
    with pytest.raises(RegistryError, match="m1/water"):
        registry.begin_deposit(device, A, service, word(1))
    assert registry.pending(device) is None
    assert registry.channels_of("nobody") == ()


def test_bounds_per_device() -> None:
    registry = Registry()
    for number in range(CHANNELS_PER_DEVICE_MAX):
        registry.bind_channel(word(number), "m1", "water")
    with pytest.raises(RegistryError, match="channels"):
        registry.bind_channel(word(99), "m1", "water")
    for number in range(ACCOUNTS_PER_DEVICE_MAX):
        registry.bind_account(word(100 + number), "m1", "solar")
    with pytest.raises(RegistryError, match="earner accounts"):
        registry.bind_account(word(999), "m1", "solar")
    for number in range(PAYERS_PER_DEVICE_MAX):
        registry.enrol_payer("m1", bytes([number]) * 20)
    registry.enrol_payer("m1", bytes(20))
    with pytest.raises(RegistryError, match="payers"):
        registry.enrol_payer("m1", b"\xff" * 20)


def test_deposits_remembered_are_the_newest() -> None:
    registry = Registry()
    for number in range(DEPOSITS_PER_CHANNEL_MAX + 1):
        registry.remember_deposit(A, word(number))
    assert not registry.knows_deposit(A, word(0))
    assert registry.knows_deposit(A, word(1))
    assert registry.knows_deposit(A, word(DEPOSITS_PER_CHANNEL_MAX))


def test_accounts() -> None:
    registry = Registry()
    registry.enrol_account(C)
    assert registry.is_enrolled_account(C)
    assert not registry.is_enrolled_account(B)
    assert registry.account_binding(C) is None
    registry.bind_account(C, "roof", "solar")
    registry.bind_account(C, "roof", "solar")
    assert registry.account_binding(C) == Binding("roof", "solar")
    with pytest.raises(RegistryError, match="roof/solar"):
        registry.bind_account(C, "m2", "solar")
