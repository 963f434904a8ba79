"""Deposits that others meddle with: submitted by strangers, cancelled, spent, given in dust."""

import pytest
from eth_abi import encode

from channels.digests import deposit_nonce, domain_separator, keccak
from channels.refusals import Refusal
from channels.signatures import key_address, sign
from channels.state import Phase
from channels.types import COLLECTOR_ADDRESS, SETTLEMENT_ADDRESS
from devices.messages import Status
from settlement import calls
from settlement.genesis import PAYOUTS_ADDRESS, TOKEN_ADDRESS
from tests.contracts.world import attacker
from tests.support.gateway_devices import Payer, to_json
from tests.support.proof_fixtures import Make
from tests.support.proof_grounds import CHAIN_ID
from tests.support.proof_world import TOKEN, ProofWorld

LAYERS = pytest.mark.parametrize("layer", ["embedded", "anvil"])
DEPOSIT = 2_000_000
DONOR = b"Donor".ljust(20, b"\1")


def deposit_data(payer: Payer, amount: int, salt: int = 1) -> bytes:
    """The deposit that anybody may submit who has seen the device's `open`."""
    given = calls.collector_data(payer.authorization(amount, salt))
    return calls.deposit(payer.config, amount, COLLECTOR_ADDRESS, given)


def cancel_data(payer: Payer, salt: int = 1) -> bytes:
    """The payer's own cancellation of an authorization, which anybody may submit."""
    nonce = deposit_nonce(payer.id, salt)
    type_hash = keccak(b"CancelAuthorization(address authorizer,bytes32 nonce)")
    struct = keccak(encode(["bytes32", "address", "bytes32"], [type_hash, "0x" + payer.payer.hex(), nonce]))
    separator = domain_separator("USD Coin", "2", CHAIN_ID, TOKEN_ADDRESS)
    signature = sign(keccak(b"\x19\x01" + separator + struct), payer.payer_key)
    selector = keccak(b"cancelAuthorization(address,bytes32,bytes)")[:4]
    types = ["address", "bytes32", "bytes"]
    return selector + encode(types, ["0x" + payer.payer.hex(), nonce, signature])


def by_stranger(world: ProofWorld, to: bytes, data: bytes) -> None:
    """Let the stranger send a transaction, from whatever thread."""
    world.ground.send(world.stranger_key, key_address(world.stranger_key), to, data)


async def credited_once(world: ProofWorld, payer: Payer, amount: int) -> None:
    """The channel has its deposit, once, and works."""
    assert world.observer.flows().deposited[payer.id] == amount
    assert world.ledger.channels[payer.id].balance == amount
    await world.pay(payer, 100)
    await world.settle_all()
    await world.prove()
    await world.honoured()


@LAYERS
async def test_a_stranger_submits_the_deposit_first(make_world: Make, layer: str) -> None:
    world = await make_world(layer)
    payer = world.payer()
    await world.transact(world.stranger_key, SETTLEMENT_ADDRESS, deposit_data(payer, DEPOSIT))
    answer = await world.ask("meter-1", "open", to_json(payer.open(DEPOSIT)))
    assert (answer.reason, answer.balance) == (None, DEPOSIT)
    again = await world.ask("meter-1", "open", to_json(payer.open(DEPOSIT)))
    assert (again.status, again.balance) == (Status.DUPLICATE, DEPOSIT)
    await credited_once(world, payer, DEPOSIT)


@LAYERS
@pytest.mark.parametrize("top_up", [False, True], ids=["first", "top-up"])
async def test_a_stranger_is_faster_while_the_gateway_submits(make_world: Make, layer: str, top_up: bool) -> None:
    """The gateway's own transaction reverts; the money is there all the same, once."""
    world = await make_world(layer)
    payer = await world.opened("meter-1", DEPOSIT) if top_up else world.payer()
    salt = 2 if top_up else 1
    data = deposit_data(payer, DEPOSIT, salt)
    world.proxy.before("eth_sendRawTransaction", lambda: by_stranger(world, SETTLEMENT_ADDRESS, data))
    answer = await world.ask_again("meter-1", "open", to_json(payer.open(DEPOSIT, salt=salt)))
    balance = 2 * DEPOSIT if top_up else DEPOSIT
    assert (answer.reason, answer.balance) == (None, balance)
    await credited_once(world, payer, balance)


@LAYERS
@pytest.mark.parametrize("when", ["before", "while the gateway submits"])
@pytest.mark.parametrize("top_up", [False, True], ids=["first", "top-up"])
async def test_a_cancelled_authorization_is_no_deposit(make_world: Make, layer: str, when: str, top_up: bool) -> None:
    world = await make_world(layer)
    payer = await world.opened("meter-1", DEPOSIT) if top_up else world.payer()
    salt = 2 if top_up else 1
    if when == "before":
        await world.transact(world.stranger_key, TOKEN_ADDRESS, cancel_data(payer, salt))
    else:
        data = cancel_data(payer, salt)
        world.proxy.before("eth_sendRawTransaction", lambda: by_stranger(world, TOKEN_ADDRESS, data))
    refused = await world.ask_again("meter-1", "open", to_json(payer.open(DEPOSIT, salt=salt)))
    if top_up and when == "before":
        # Used up before, and the channel is funded: told as known, and nothing is credited.
        assert refused.status in (Status.DUPLICATE, Status.REFUSED)
    else:
        assert refused.reason is Refusal.DEPOSIT_INVALID
    before = DEPOSIT if top_up else 0
    assert world.observer.channel(payer.id)[0] == before
    await world.prove()
    answer = await world.ask_again("meter-1", "open", to_json(payer.open(DEPOSIT, salt=3)))
    assert answer.reason is None, answer
    await credited_once(world, payer, before + DEPOSIT)


@LAYERS
async def test_a_payer_that_spends_its_tokens_while_the_gateway_submits(make_world: Make, layer: str) -> None:
    world = await make_world(layer)
    payer = world.payer()
    held = world.observer.tokens(payer.payer)

    def spend() -> None:
        data = calls.transfer(key_address(world.stranger_key), held)
        world.ground.send(payer.payer_key, payer.payer, TOKEN_ADDRESS, data)

    world.proxy.before("eth_sendRawTransaction", spend)
    answer = await world.ask("meter-1", "open", to_json(payer.open(DEPOSIT)))
    assert answer.reason is Refusal.DEPOSIT_INVALID
    await world.prove()
    # Another device's channel of the same kind is not in its way, and the payer may come back.
    other = await world.opened("meter-2", DEPOSIT)
    await world.pay(other, 100)
    await world.transact(world.stranger_key, TOKEN_ADDRESS, calls.transfer(payer.payer, held))
    answer = await world.ask("meter-1", "open", to_json(payer.open(DEPOSIT)))
    assert answer.reason is None, answer
    await credited_once(world, payer, DEPOSIT)


def donor_code() -> bytes:
    """A collector that brings its own tokens into anybody's channel."""
    return bytes.fromhex(attacker("Donor")["bytecode_runtime"][2:])


@LAYERS
async def test_dust_into_a_channel_is_the_channels(make_world: Make, layer: str) -> None:
    """Strangers deposit single units, while it pays and while it closes: nothing stalls, no unit is lost."""
    world = await make_world(layer, codes={DONOR: donor_code()}, tokens={DONOR: TOKEN})
    payer = await world.opened("meter-1", DEPOSIT)
    dust = calls.deposit(payer.config, 1, DONOR, b"")
    for _ in range(10):
        await world.transact(world.stranger_key, SETTLEMENT_ADDRESS, dust)
    await world.until(lambda: world.ledger.channels[payer.id].balance == DEPOSIT + 10)
    await world.pay(payer, 100)
    await world.settle_all()
    await world.prove()
    close = to_json(payer.close())
    world.proxy.before("eth_sendRawTransaction", lambda: by_stranger(world, SETTLEMENT_ADDRESS, dust))
    await world.link.send("meter-1", "close", close)
    await world.settle_until(lambda: world.ledger.channels[payer.id].phase is Phase.CLOSED)
    balance, claimed = world.observer.channel(payer.id)
    assert claimed == payer.charged
    assert balance - claimed in (0, 1), "what came while it closed is refunded, or lies there for its payer"
    # Dust into a closed channel opens nothing.
    await world.transact(world.stranger_key, SETTLEMENT_ADDRESS, dust)
    answer = await world.ask("meter-1", "usage", to_json(payer.usage(1, seq=payer.seq + 2)))
    assert answer.reason is Refusal.NOT_OPEN
    await world.settle()
    await world.prove()


@LAYERS
async def test_gifts_to_every_address_of_the_gateway(make_world: Make, layer: str) -> None:
    world = await make_world(layer)
    payer = await world.opened("meter-1", DEPOSIT)
    earner = await world.joined()
    await world.pay(payer, 100)
    await world.earn(earner, 10)
    keys = world.keys
    own = [keys.treasury, keys.operator, keys.authorizer, *keys.lanes]
    for holder in (*(key.address for key in own), SETTLEMENT_ADDRESS, COLLECTOR_ADDRESS, PAYOUTS_ADDRESS):
        await world.transact(world.stranger_key, TOKEN_ADDRESS, calls.transfer(holder, 12_345))
    # Coins, too: nobody asked for them.
    await world.transact(world.stranger_key, keys.lanes[0].address, b"", value=1)
    await world.settle_all()
    await world.prove()
    await world.honoured()
