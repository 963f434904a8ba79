"""What every execution layer must do, whoever wrote it: one suite for anvil and for the embedded layer."""

import pytest

from channels.digests import channel_id, claim_batch_digest, deposit_nonce, refund_digest
from channels.signatures import key_address, sign
from channels.types import COLLECTOR_ADDRESS, SETTLEMENT_ADDRESS, U256_MAX
from settlement import calls
from settlement.client import JsonRpcLayer
from settlement.errors import ChainMisbehaved, ChainRefused
from settlement.events import (
    ChannelClosed,
    ChannelCreated,
    Claimed,
    Deposited,
    Refunded,
    Settled,
    WithdrawFinalized,
    WithdrawInitiated,
)
from settlement.genesis import PAYOUTS_ADDRESS, TOKEN_ADDRESS
from settlement.port import Call, ChannelView, ReceiverView, Revert
from tests.support.layers import (
    AUTHORIZER_KEY,
    COINS,
    DEVICE_KEY,
    DOMAIN,
    LANE_KEY,
    NETWORK,
    PAYER_KEY,
    POOR_KEY,
    RELAY_KEY,
    TOKENS,
    TREASURY_KEY,
    Site,
    authorization,
    call_of,
    config,
    row,
)

PAYER, LANE, RELAY, TREASURY = map(key_address, (PAYER_KEY, LANE_KEY, RELAY_KEY, TREASURY_KEY))
CHANNEL = config()
ID = channel_id(CHANNEL, NETWORK)


async def test_blocks_are_linked(site: Site) -> None:
    before = await site.layer.head()
    site.mine(7)
    head = await site.layer.head()
    assert (head.number, head.parent_hash) == (before.number + 1, before.hash)
    assert head.timestamp >= before.timestamp + 7
    assert head.base_fee > 0
    assert head.gas_limit >= 30_000_000
    assert await site.layer.block(before.number) == before
    assert await site.layer.block(head.number + 1) is None
    assert await site.layer.chain_id() == NETWORK.chain_id


async def test_another_chain_is_a_fault(site: Site) -> None:
    layer = JsonRpcLayer(site.transport, expected_chain_id=1)
    signed = site.sign(RELAY_KEY, LANE, b"", value=1)
    with pytest.raises(ChainMisbehaved, match="chain 31402"):
        await layer.send_raw(signed.raw)
    assert await site.layer.nonce(RELAY, pending=True) == 0


async def test_money_flows_from_payer_to_lane(site: Site) -> None:
    layer = site.layer
    assert await layer.channels([ID]) == [ChannelView(0, 0, 0, 0)]
    deposited = await site.deposit(CHANNEL, 5_000)
    assert deposited.succeeded
    claim = await site.execute(LANE_KEY, SETTLEMENT_ADDRESS, calls.claim([row(CHANNEL, 1_200, 1_000)]))
    settle = await site.execute(RELAY_KEY, SETTLEMENT_ADDRESS, calls.settle(LANE, TOKEN_ADDRESS))
    assert await layer.channels([ID]) == [ChannelView(5_000, 1_000, 0, 0)]
    assert await layer.receivers([(LANE, TOKEN_ADDRESS), (RELAY, TOKEN_ADDRESS)]) == [
        ReceiverView(1_000, 1_000),
        ReceiverView(0, 0),
    ]
    assert await layer.token_balances(TOKEN_ADDRESS, [PAYER, LANE, SETTLEMENT_ADDRESS]) == [
        TOKENS[PAYER] - 5_000,
        1_000,
        4_000,
    ]
    events = await layer.events(0, settle.block_number)
    kinds = [type(event) for event in events]
    assert sorted(kinds[:2], key=str) == [ChannelCreated, Deposited]
    assert kinds[2:] == [Claimed, Settled]
    created, paid_in = sorted(events[:2], key=lambda event: str(type(event)))
    assert isinstance(created, ChannelCreated)
    assert (created.channel_id, created.config) == (ID, CHANNEL)
    assert isinstance(paid_in, Deposited)
    assert (paid_in.channel_id, paid_in.sender, paid_in.amount, paid_in.balance) == (ID, RELAY, 5_000, 5_000)
    claimed, settled = events[2:]
    assert isinstance(claimed, Claimed)
    assert (claimed.sender, claimed.amount, claimed.total_claimed) == (LANE, 1_000, 1_000)
    assert isinstance(settled, Settled)
    assert (settled.receiver, settled.token, settled.sender, settled.amount) == (LANE, TOKEN_ADDRESS, RELAY, 1_000)
    assert (claimed.block_number, claimed.block_hash, claimed.tx_hash) == (
        claim.block_number,
        claim.block_hash,
        claim.tx_hash,
    )
    assert await layer.events(claim.block_number, claim.block_number) == [claimed]
    assert claim.logs[-1].position == claimed.position


async def test_a_block_is_asked_for_by_its_hash(site: Site) -> None:
    """A block that was replaced, or that the node does not know, is refused; by its number it would be silence."""
    layer = site.layer
    back = site.snapshot()
    paid_in = await site.deposit(CHANNEL, 5_000)
    number = paid_in.block_number
    events = await layer.events(number, number, paid_in.block_hash)
    assert events == await layer.events(number, number)
    assert [type(event) for event in events].count(Deposited) == 1
    transfers = await layer.transfers_to(TOKEN_ADDRESS, [SETTLEMENT_ADDRESS], number, number, paid_in.block_hash)
    assert transfers == await layer.transfers_to(TOKEN_ADDRESS, [SETTLEMENT_ADDRESS], number, number)
    assert [transfer.amount for transfer in transfers] == [5_000]
    back()
    site.mine(7)
    for unknown in (paid_in.block_hash, b"\x77" * 32):
        with pytest.raises(ChainRefused):
            await layer.events(number, number, unknown)
        with pytest.raises(ChainRefused):
            await layer.transfers_to(TOKEN_ADDRESS, [SETTLEMENT_ADDRESS], number, number, unknown)


async def test_anyone_may_submit_a_signed_claim(site: Site) -> None:
    await site.deposit(CHANNEL, 5_000)
    digest = claim_batch_digest([(ID, 1_200, 1_000)], NETWORK)
    rows = [row(CHANNEL, 1_200, 1_000)]
    wrong = await site.layer.simulate(call_of(RELAY_KEY, calls.claim_with_signature(rows, sign(digest, LANE_KEY))))
    assert isinstance(wrong, Revert)
    assert wrong.reason == "InvalidSignature"
    data = calls.claim_with_signature(rows, sign(digest, AUTHORIZER_KEY))
    receipt = await site.execute(RELAY_KEY, SETTLEMENT_ADDRESS, data)
    assert receipt.succeeded
    assert await site.layer.channels([ID]) == [ChannelView(5_000, 1_000, 0, 0)]


async def test_state_is_read_at_one_block(site: Site) -> None:
    first = await site.deposit(CHANNEL, 100)
    await site.deposit(CHANNEL, 50, salt=2)
    assert await site.layer.channels([ID], first.block_number) == [ChannelView(100, 0, 0, 0)]
    assert await site.layer.channels([ID]) == [ChannelView(150, 0, 0, 0)]
    assert await site.layer.token_balances(TOKEN_ADDRESS, [PAYER], first.block_number) == [TOKENS[PAYER] - 100]


async def test_many_are_read_in_chunks_and_in_order(site: Site) -> None:
    numbers = range(1, 8)
    for number in numbers:
        await site.deposit(config(number), 100 * number)
    ids = [channel_id(config(number), NETWORK) for number in range(130)]
    views = await site.layer.channels(ids)  # 260 views: three calls
    assert [view.balance for view in views] == [100 * number if number in numbers else 0 for number in range(130)]
    assert await site.layer.channels([]) == []
    owners = [number.to_bytes(20, "big") for number in range(1000, 1240)]
    assert await site.layer.token_balances(TOKEN_ADDRESS, [*owners, PAYER]) == [0] * 240 + [TOKENS[PAYER] - 2800]
    assert await site.layer.native_balances([*owners, LANE]) == [0] * 240 + [COINS[LANE]]


async def test_withdrawal_is_seen_and_ends(site: Site) -> None:
    await site.deposit(CHANNEL, 500)
    started = await site.execute(PAYER_KEY, SETTLEMENT_ADDRESS, calls.initiate_withdraw(CHANNEL, 300))
    block = await site.layer.block(started.block_number)
    assert block is not None
    assert await site.layer.channels([ID]) == [ChannelView(500, 0, 300, block.timestamp)]
    (event,) = await site.layer.events(started.block_number, started.block_number)
    assert isinstance(event, WithdrawInitiated)
    assert (event.channel_id, event.amount, event.finalize_after) == (ID, 300, block.timestamp + 900)
    early = await site.layer.simulate(call_of(PAYER_KEY, calls.finalize_withdraw(CHANNEL)))
    assert isinstance(early, Revert)
    assert early.reason == "WithdrawDelayNotElapsed"
    site.mine(1_000)
    ended = await site.execute(PAYER_KEY, SETTLEMENT_ADDRESS, calls.finalize_withdraw(CHANNEL))
    (event,) = await site.layer.events(ended.block_number, ended.block_number)
    assert isinstance(event, WithdrawFinalized)
    assert (event.channel_id, event.sender, event.amount) == (ID, PAYER, 300)
    assert await site.layer.channels([ID]) == [ChannelView(200, 0, 0, 0)]


async def test_close_claims_and_refunds_in_one_transaction(site: Site) -> None:
    await site.deposit(CHANNEL, 500)
    assert await site.layer.refund_nonces([ID]) == [0]
    signature = sign(refund_digest(ID, 0, 380, NETWORK), AUTHORIZER_KEY)
    data = calls.multicall(
        [calls.claim([row(CHANNEL, 120, 120)]), calls.refund_with_signature(CHANNEL, 380, 0, signature)]
    )
    receipt = await site.execute(LANE_KEY, SETTLEMENT_ADDRESS, data)
    events = await site.layer.events(receipt.block_number, receipt.block_number)
    assert [type(event) for event in events] == [Claimed, Refunded]
    assert isinstance(events[1], Refunded)
    assert (events[1].channel_id, events[1].sender, events[1].amount) == (ID, LANE, 380)
    assert await site.layer.channels([ID]) == [ChannelView(120, 120, 0, 0)]
    assert await site.layer.refund_nonces([ID]) == [1]


async def test_refund_of_everything_closes(site: Site) -> None:
    await site.deposit(CHANNEL, 500)
    receipt = await site.execute(LANE_KEY, SETTLEMENT_ADDRESS, calls.refund(CHANNEL, 500))
    events = await site.layer.events(receipt.block_number, receipt.block_number)
    assert {type(event) for event in events} == {Refunded, ChannelClosed}
    (closed,) = [event for event in events if isinstance(event, ChannelClosed)]
    assert closed.config == CHANNEL


async def test_authorization_is_used_once(site: Site) -> None:
    nonce = deposit_nonce(ID, 1)
    assert not await site.layer.authorization_used(TOKEN_ADDRESS, PAYER, nonce)
    await site.deposit(CHANNEL, 500)
    assert await site.layer.authorization_used(TOKEN_ADDRESS, PAYER, nonce)
    again = calls.deposit(CHANNEL, 500, COLLECTOR_ADDRESS, calls.collector_data(authorization(CHANNEL, 500, 1)))
    assert isinstance(await site.layer.simulate(call_of(RELAY_KEY, again)), Revert)


async def test_payouts_are_cumulative(site: Site) -> None:
    payees = [number.to_bytes(20, "big") for number in (101, 102)]
    layer = site.layer
    assert await layer.allowance(TOKEN_ADDRESS, TREASURY, PAYOUTS_ADDRESS) == 0
    await site.execute(TREASURY_KEY, TOKEN_ADDRESS, calls.approve(PAYOUTS_ADDRESS, U256_MAX))
    assert await layer.allowance(TOKEN_ADDRESS, TREASURY, PAYOUTS_ADDRESS) == U256_MAX
    for rows in ([(payees[0], 100)], [(payees[0], 150), (payees[1], 7)], [(payees[0], 150), (payees[1], 3)]):
        receipt = await site.execute(TREASURY_KEY, PAYOUTS_ADDRESS, calls.pay(TOKEN_ADDRESS, rows))
        assert receipt.succeeded
    assert await layer.paid(PAYOUTS_ADDRESS, TREASURY, TOKEN_ADDRESS, [*payees, LANE]) == [150, 7, 0]
    assert await layer.token_balances(TOKEN_ADDRESS, payees) == [150, 7]


@pytest.mark.parametrize(
    ("key", "data", "reason"),
    [
        (LANE_KEY, calls.claim([row(CHANNEL, 100, 101)]), "ClaimExceedsCeiling"),
        (LANE_KEY, calls.claim([row(CHANNEL, 1_000, 1_000)]), "ClaimExceedsBalance"),
        (LANE_KEY, calls.claim([]), "EmptyBatch"),
        (PAYER_KEY, calls.claim([row(CHANNEL, 100, 100)]), "NotAuthorizedToClaim"),
        (LANE_KEY, calls.claim([calls.VoucherClaim(CHANNEL, 100, bytes(65), 100)]), "InvalidSignature"),
        (PAYER_KEY, calls.initiate_withdraw(CHANNEL, 0), "NothingToWithdraw"),
        (PAYER_KEY, calls.initiate_withdraw(CHANNEL, 501), "WithdrawAmountExceedsAvailable"),
        (PAYER_KEY, calls.finalize_withdraw(CHANNEL), "WithdrawalNotPending"),
        (RELAY_KEY, calls.refund(CHANNEL, 1), "NotAuthorizedToRefund"),
        (RELAY_KEY, calls.deposit(CHANNEL, 0, COLLECTOR_ADDRESS, b""), "ZeroDeposit"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_reverts_are_named(site: Site, key: bytes, data: bytes, reason: str) -> None:
    await site.deposit(CHANNEL, 500)
    revert = await site.layer.simulate(call_of(key, data))
    assert isinstance(revert, Revert)
    assert revert.reason == reason
    assert await site.layer.estimate_gas(call_of(key, data)) == revert
    receipt = await site.execute(key, SETTLEMENT_ADDRESS, data)
    assert (receipt.status, receipt.logs) == (0, ())


async def test_a_revert_with_words_is_named_by_them(site: Site) -> None:
    revert = await site.layer.simulate(Call(LANE, TOKEN_ADDRESS, calls.transfer(RELAY, 1)))
    assert isinstance(revert, Revert)
    assert revert.reason == "transfer amount exceeds balance"


async def test_an_estimate_suffices_and_is_tight(site: Site) -> None:
    await site.deposit(CHANNEL, 5_000)
    data = calls.claim([row(CHANNEL, 1_000, 1_000)])
    estimate = await site.layer.estimate_gas(call_of(LANE_KEY, data))
    assert isinstance(estimate, int)
    signed = site.sign(LANE_KEY, SETTLEMENT_ADDRESS, data, gas=estimate)
    await site.layer.send_raw(signed.raw)
    site.mine(1)
    receipt = await site.layer.receipt(signed.tx_hash)
    assert receipt is not None
    assert receipt.succeeded
    assert receipt.gas_used <= estimate <= receipt.gas_used * 103 // 100


async def test_receipts_tell_what_was_paid(site: Site) -> None:
    (before,) = await site.layer.native_balances([RELAY])
    receipt = await site.execute(RELAY_KEY, LANE, b"", value=5)
    (after,) = await site.layer.native_balances([RELAY])
    assert receipt.gas_used == 21_000
    assert before - after == receipt.fee + 5
    assert await site.layer.native_balances([RELAY], receipt.block_number - 1) == [before]


async def test_sending_again_is_harmless(site: Site) -> None:
    signed = site.sign(RELAY_KEY, LANE, b"", value=5)
    assert await site.layer.receipt(signed.tx_hash) is None
    assert await site.layer.send_raw(signed.raw) == signed.tx_hash
    assert await site.layer.send_raw(signed.raw) == signed.tx_hash
    assert await site.layer.nonce(RELAY, pending=True) == 1
    assert await site.layer.nonce(RELAY, pending=False) == 0
    assert await site.layer.receipt(signed.tx_hash) is None
    site.mine(1)
    assert await site.layer.nonce(RELAY, pending=False) == 1
    assert await site.layer.send_raw(signed.raw) == signed.tx_hash
    site.mine(1)
    receipt = await site.layer.receipt(signed.tx_hash)
    assert receipt is not None
    (balance,) = await site.layer.native_balances([LANE])
    assert balance == COINS[LANE] + 5


async def test_many_are_sent_and_looked_up_at_once(site: Site) -> None:
    signed = [site.sign(RELAY_KEY, LANE, b"", value=value) for value in range(1, 121)]
    poor = site.sign(POOR_KEY, LANE, b"", value=5)
    answers = await site.layer.send_all([each.raw for each in signed] + [poor.raw])
    assert answers[:-1] == [None] * 120
    assert isinstance(answers[-1], ChainRefused)
    assert await site.layer.send_all([each.raw for each in signed[:3]]) == [None] * 3, "sending again is harmless"
    hashes = [each.tx_hash for each in signed]
    assert await site.layer.receipts(hashes) == [None] * 120
    assert await site.layer.nonces([RELAY, LANE]) == [0, 0]
    site.mine(1)
    site.mine(1)
    receipts = await site.layer.receipts([*hashes, poor.tx_hash])
    assert [None if each is None else each.tx_hash for each in receipts] == [*hashes, None]
    assert receipts[7] == await site.layer.receipt(hashes[7])
    assert await site.layer.nonces([RELAY, LANE]) == [120, 0]
    assert await site.layer.send_all([signed[0].raw]) == [None], "mined is held, too"
    assert await site.layer.native_balances([LANE]) == [COINS[LANE] + 120 * 121 // 2]
    assert (await site.layer.send_all([]), await site.layer.receipts([]), await site.layer.nonces([])) == ([], [], [])


async def test_many_are_estimated_at_once_each_by_itself(site: Site) -> None:
    await site.deposit(CHANNEL, 500)
    good, bad = (call_of(LANE_KEY, calls.claim([row(CHANNEL, 100, total)])) for total in (100, 101))
    estimates = await site.layer.estimate_all([good, bad] * 10)
    assert estimates == [await site.layer.estimate_gas(call) for call in (good, bad)] * 10
    assert isinstance(estimates[0], int)
    assert isinstance(estimates[1], Revert)
    assert await site.layer.estimate_all([]) == []


async def test_transactions_of_one_sender_wait_for_their_turn(site: Site) -> None:
    first, second = (site.sign(RELAY_KEY, LANE, b"", value=value) for value in (1, 2))
    await site.layer.send_raw(second.raw)
    site.mine(1)
    assert await site.layer.receipt(second.tx_hash) is None
    await site.layer.send_raw(first.raw)
    site.mine(1)
    receipts = [await site.layer.receipt(signed.tx_hash) for signed in (first, second)]
    assert all(receipt is not None and receipt.succeeded for receipt in receipts)


async def test_what_cannot_be_mined_is_refused(site: Site) -> None:
    signed = site.sign(POOR_KEY, LANE, b"", value=5)
    with pytest.raises(ChainRefused):
        await site.layer.send_raw(signed.raw)
    with pytest.raises(ChainRefused):
        await site.layer.send_raw(b"\x02" + bytes(10))
    used = site.sign(RELAY_KEY, LANE, b"", value=5)
    await site.layer.send_raw(used.raw)
    site.mine(1)
    site.nonces[RELAY_KEY] = 0
    other = site.sign(RELAY_KEY, LANE, b"", value=6)
    with pytest.raises(ChainRefused):
        await site.layer.send_raw(other.raw)


async def test_fees_suffice_for_the_next_blocks(site: Site) -> None:
    fees = await site.layer.fees()
    head = await site.layer.head()
    assert fees.max_fee_per_gas == 2 * head.base_fee + fees.max_priority_fee_per_gas
    assert 0 <= fees.max_priority_fee_per_gas <= fees.max_fee_per_gas


async def test_token_domain_is_read_and_checked(site: Site) -> None:
    assert await site.layer.token_domain(TOKEN_ADDRESS) == DOMAIN
    with pytest.raises(ChainMisbehaved, match="6 decimals, not 18"):
        await site.layer.token_domain(TOKEN_ADDRESS, decimals=18)
    with pytest.raises(ChainMisbehaved, match="not a contract"):
        await site.layer.token_domain(key_address(DEVICE_KEY))
    with pytest.raises(ChainMisbehaved, match=r"no name\(\)"):
        await site.layer.token_domain(PAYOUTS_ADDRESS)


async def test_transfers_to_some_are_found(site: Site) -> None:
    payees = [number.to_bytes(20, "big") for number in (101, 102, 103)]
    receipts = [
        await site.execute(PAYER_KEY, TOKEN_ADDRESS, calls.transfer(payee, amount))
        for payee, amount in zip(payees, (5, 6, 7), strict=True)
    ]
    first, last = receipts[0].block_number, receipts[-1].block_number
    found = await site.layer.transfers_to(TOKEN_ADDRESS, payees[:2], first, last)
    assert [(entry.sender, entry.receiver, entry.amount) for entry in found] == [
        (PAYER, payees[0], 5),
        (PAYER, payees[1], 6),
    ]
    assert [entry.block_hash for entry in found] == [receipt.block_hash for receipt in receipts[:2]]
    assert await site.layer.transfers_to(TOKEN_ADDRESS, payees[:2], last, last) == []
    assert await site.layer.transfers_to(TOKEN_ADDRESS, [], first, last) == []


async def test_code_is_where_it_belongs(site: Site) -> None:
    assert await site.layer.has_code(SETTLEMENT_ADDRESS)
    assert not await site.layer.has_code(RELAY)
    (result,) = await site.layer._views([(SETTLEMENT_ADDRESS, calls.channel_id_view(CHANNEL))], None)
    assert result == ID


async def test_a_contract_that_is_not_there_is_a_fault(site: Site) -> None:
    layer = JsonRpcLayer(site.transport, settlement=RELAY)
    with pytest.raises(ChainMisbehaved):
        await layer.channels([ID])
