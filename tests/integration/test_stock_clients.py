"""Stock clients at the demo: web3.py on its JSON-RPC port, and the PyPI package x402 as a payer."""

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from eth_abi import encode
from web3 import Web3
from x402.mechanisms.evm.batch_settlement.client.eip3009 import create_batch_settlement_eip3009_deposit_payload
from x402.mechanisms.evm.batch_settlement.client.voucher import sign_voucher
from x402.mechanisms.evm.batch_settlement.types import ChannelConfig as StockConfig
from x402.mechanisms.evm.batch_settlement.utils import compute_channel_id
from x402.mechanisms.evm.signers import EthAccountSigner
from x402.schemas import PaymentRequirements

from tests.support.outsider import Outsider, checked
from tests.support.outsider_chain import ChainView
from tests.support.outsider_signing import SETTLEMENT, key
from tests.support.outsider_site import FUNDED_COINS, FUNDED_TOKENS, TOKEN, Site

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    site = Site("stock", 24)
    try:
        site.demo.broker_answers()
        yield site
    finally:
        site.end()


@pytest.fixture(autouse=True)
def _leave(site: Site) -> Iterator[None]:
    yield
    site.leave()


@pytest.fixture(scope="module")
def view(site: Site) -> ChainView:
    token = site.join("looker", payer=key("nobody")).chain.token
    site.leave()
    return ChainView(site.demo.url, token)


def opened(site: Site, amount: int = 5 * TOKEN) -> Outsider:
    device = site.join("meter")
    receipt = device.open(amount)
    assert receipt["status"] == "accepted", receipt
    return device


def until(found: Callable[[], Any], what: str, timeout_s: float = 20.0) -> Any:
    """Return the first true value."""
    deadline = time.monotonic() + timeout_s
    while not (value := found()):
        assert time.monotonic() < deadline, f"{what}: not within {timeout_s} s"
        time.sleep(0.05)
    return value


# -- x402 --


def requirements(device: Outsider) -> PaymentRequirements:
    offer = device.offer
    return PaymentRequirements(
        scheme="batch-settlement",
        network=offer["network"],
        asset=Web3.to_checksum_address(offer["asset"]),
        amount="1000",
        pay_to=Web3.to_checksum_address("0x" + device.lane().hex()),
        max_timeout_seconds=3_600,
        extra={"name": offer["assetName"], "version": offer["assetVersion"]},
    )


@pytest.mark.parametrize("own_authorizer", [True, False], ids=["authorizer", "payer"])
@pytest.mark.parametrize("bound", [True, False], ids=["bound", "unbound"])
def test_a_stock_x402_client_opens_tops_up_and_pays(site: Site, own_authorizer: bool, bound: bool) -> None:
    """Its deposit payload goes into `open` as it is, its vouchers into `usage`."""
    device = site.join("stock")
    if not own_authorizer:
        device.authorizer = device.payer
    config = device.new_config()
    payer, authorizer = EthAccountSigner(device.payer), EthAccountSigner(device.authorizer)
    members = {name: "0x" + value.hex() for name, value in config.values().items() if isinstance(value, bytes)}
    stock = StockConfig.from_dict({**members, "withdrawDelay": config.withdrawDelay})
    network = device.offer["network"]
    channel = compute_channel_id(stock, network)
    assert channel == "0x" + device.chain.channel_id(config).hex()

    for number, amount in enumerate((2 * TOKEN, 3 * TOKEN)):
        made = create_batch_settlement_eip3009_deposit_payload(
            payer, requirements(device), stock, amount, 150, voucher_signer=authorizer
        ).to_dict()
        message = {name: made[name] for name in ("channelConfig", "deposit")} | {"service": "grid-power"}
        if bound:
            message["binding"] = "0x" + device.binding(config, "grid-power", 0).hex()
        receipt = device.connection.ask("open", json.dumps(message).encode())
        assert (receipt.get("reason"), receipt["balance"]) == (None, (2 * TOKEN, 5 * TOKEN)[number])

    for seq in (1, 2, 3):
        voucher = sign_voucher(authorizer, channel, 150 * 40 * seq, network).to_dict()
        reading = {**voucher, "seq": seq, "register": 40 * seq, "time": 0, "offer": device.offer["id"]}
        receipt = device.connection.ask("usage", json.dumps(reading).encode())
        assert (receipt["status"], receipt["cumulative"]) == ("accepted", 150 * 40 * seq), receipt
        assert "0x" + receipt["signature"].hex() == voucher["signature"]


# -- web3.py --


def test_funded_addresses_have_their_money(site: Site, view: ChainView) -> None:
    spare = site.payer()
    assert view.tokens(spare.address) == FUNDED_TOKENS
    assert view.web3.eth.get_balance(spare.address) == FUNDED_COINS
    assert view.web3.eth.chain_id == 31402
    assert view.web3.eth.get_transaction_count(spare.address) == 0
    assert abs(view.web3.eth.get_block("latest")["timestamp"] - time.time()) < 60


def test_the_contracts_answer_at_the_canonical_addresses(site: Site, view: ChainView) -> None:
    device = site.join(payer=key("nobody"))
    config = device.new_config()
    functions = view.settlement.functions
    channel = device.chain.channel_id(config)
    assert functions.getChannelId(config.abi()).call() == channel
    assert functions.getVoucherDigest(channel, 7).call() == device.chain.voucher(channel, 7)
    token = (functions_of := view.token.functions).name().call(), functions_of.version().call()
    assert token == (device.offer["assetName"], device.offer["assetVersion"])
    assert functions_of.decimals().call() == 6
    for place in (SETTLEMENT, view.collector, "0xcA11bde05977b3631167028862bE2a173976CA11"):
        assert len(view.web3.eth.get_code(Web3.to_checksum_address(place))) > 100


def test_channel_state_and_events_follow_what_the_device_was_told(site: Site, view: ChainView) -> None:
    """From the deposit to the claim and the settlement of its lane, read from the chain alone."""
    first = view.web3.eth.block_number
    deposits = view.settlement.events.Deposited.create_filter(from_block=first)
    claims = view.settlement.events.Claimed.create_filter(from_block=first)
    device = opened(site)
    assert view.channel(device.book.id) == (5 * TOKEN, 0)
    (seen,) = until(
        lambda: [entry for entry in deposits.get_new_entries() if entry["args"]["channelId"] == device.book.id],
        "Deposited",
    )
    assert (seen["args"]["amount"], seen["args"]["newBalance"]) == (5 * TOKEN, 5 * TOKEN)
    assert seen["args"]["sender"] != device.payer.address, "the gateway submitted it: the payer needs no gas"
    assert view.web3.eth.get_transaction_count(device.payer.address) == 0
    assert view.tokens(device.payer.address) == FUNDED_TOKENS - 5 * TOKEN
    checked(device.pay(200), device, 1)
    (claim,) = until(
        lambda: [entry for entry in claims.get_new_entries() if entry["args"]["channelId"] == device.book.id], "Claimed"
    )
    assert claim["args"]["newTotalClaimed"] == device.book.cumulative == 30_000
    assert view.channel(device.book.id) == (5 * TOKEN, 30_000)
    lane = "0x" + device.lane().hex()
    until(lambda: view.receiver(lane)[0] == view.receiver(lane)[1] > 0, "settled")
    logs = view.settlement.events.Settled.get_logs(from_block=first, argument_filters={"receiver": device_lane(device)})
    assert sum(entry["args"]["amount"] for entry in logs) >= 30_000
    receipt = view.web3.eth.get_transaction_receipt(claim["transactionHash"])
    assert (receipt["status"], receipt["blockNumber"]) == (1, claim["blockNumber"])
    transaction = view.web3.eth.get_transaction(claim["transactionHash"])
    assert transaction["blockNumber"] == claim["blockNumber"]
    assert view.web3.eth.get_block(claim["blockNumber"])["hash"] == claim["blockHash"]


def device_lane(device: Outsider) -> str:
    return Web3.to_checksum_address("0x" + device.lane().hex())


@pytest.mark.parametrize("kind", ["dynamic fee", "legacy"])
def test_an_ordinary_transfer_of_coins(site: Site, view: ChainView, kind: str) -> None:
    sender, receiver = site.payer(), key("receiver", kind)
    fee: dict[str, Any] = {"gasPrice": view.web3.eth.gas_price}
    if kind == "dynamic fee":
        tip = view.web3.eth.max_priority_fee
        fee = {
            "maxPriorityFeePerGas": tip,
            "maxFeePerGas": tip + 2 * view.web3.eth.get_block("latest")["baseFeePerGas"],
        }
    receipt = view.mined(
        sender, {"to": receiver.address, "value": 10**18, "nonce": 0, "gas": 21_000, "chainId": 31402, **fee}
    )
    assert (receipt["status"], receipt["gasUsed"]) == (1, 21_000)
    assert view.web3.eth.get_balance(receiver.address) == 10**18
    cost = receipt["gasUsed"] * receipt["effectiveGasPrice"]
    assert view.web3.eth.get_balance(sender.address) == FUNDED_COINS - 10**18 - cost


def test_an_ordinary_transfer_of_tokens(site: Site, view: ChainView) -> None:
    sender, receiver = site.payer(), key("token receiver")
    receipt = view.send(sender, view.token.functions.transfer(receiver.address, 1_234))
    assert receipt["status"] == 1
    assert (view.tokens(receiver.address), view.tokens(sender.address)) == (1_234, FUNDED_TOKENS - 1_234)
    (log,) = view.token.events.Transfer().process_receipt(receipt)
    assert log["args"]["value"] == 1_234


def test_a_contract_is_deployed_and_called(site: Site, view: ChainView) -> None:
    artifact = json.loads((ROOT / "settlement/contracts/artifacts/CumulativePayouts.json").read_text())
    factory = view.web3.eth.contract(abi=artifact["abi"], bytecode=artifact["bytecode"])
    owner = site.payer()
    receipt = view.send(owner, factory.constructor())
    assert receipt["status"] == 1
    contract = view.web3.eth.contract(address=receipt["contractAddress"], abi=artifact["abi"])
    assert view.web3.eth.get_code(receipt["contractAddress"]).hex().startswith(artifact["runtime"][2:])
    assert contract.functions.paid(owner.address, view.token.address, owner.address).call() == 0


def test_a_bad_transaction_is_refused_with_an_error_of_the_node(site: Site, view: ChainView) -> None:
    from web3.exceptions import Web3RPCError

    sender = site.payer()
    fee = {"gasPrice": view.web3.eth.gas_price, "gas": 21_000, "chainId": 31402, "to": sender.address}
    for wrong in ({"value": 10**24, "nonce": 0}, {"value": 0, "nonce": 0, "gas": 20_000}):
        raw = sender.sign_transaction({**fee, **wrong}).raw_transaction
        with pytest.raises(Web3RPCError):
            view.web3.eth.send_raw_transaction(raw)
    raw = sender.sign_transaction({**fee, "value": 0, "nonce": 0, "chainId": 1}).raw_transaction
    with pytest.raises(Web3RPCError):
        view.web3.eth.send_raw_transaction(raw)


def _collector_data(deposit: dict[str, Any]) -> bytes:
    given = deposit["authorization"]["erc3009Authorization"]
    values = (given["validAfter"], given["validBefore"], int.from_bytes(given["salt"], "big"), given["signature"])
    return encode(["uint256", "uint256", "uint256", "bytes"], values)


def test_a_deposit_that_the_payer_makes_itself_is_seen_by_the_gateway(site: Site, view: ChainView) -> None:
    device = opened(site)
    device.pay(10)
    deposit = device.deposit(device.config, 4 * TOKEN)
    call = view.settlement.functions.deposit(device.config.abi(), 4 * TOKEN, view.collector, _collector_data(deposit))
    assert view.send(device.payer, call)["status"] == 1
    assert view.channel(device.book.id)[0] == 9 * TOKEN
    until(lambda: device.probe()["balance"] == 9 * TOKEN, "the deposit")
    device.book.balance = 9 * TOKEN
    checked(device.pay(10), device, 2)


def test_an_authorization_that_somebody_else_submitted_first_is_success(site: Site, view: ChainView) -> None:
    """An open whose deposit is on the chain already: the nonce is used, and the channel opens with the money."""
    device = site.join("raced")
    config = device.new_config()
    message = device.opening(config, 4 * TOKEN)
    call = view.settlement.functions.deposit(
        config.abi(), 4 * TOKEN, view.collector, _collector_data(message["deposit"])
    )
    assert view.send(site.payer(), call)["status"] == 1
    receipt = device.connection.ask("open", device.encoded(message))
    assert (receipt.get("reason"), receipt.get("balance")) == (None, 4 * TOKEN), receipt


def test_a_withdrawal_counts_at_first_sight(site: Site, view: ChainView) -> None:
    device = opened(site)
    device.pay(100)
    call = view.settlement.functions.initiateWithdraw(device.config.abi(), 3 * TOKEN)
    receipt = view.send(device.payer, call)
    assert receipt["status"] == 1
    (event,) = view.settlement.events.WithdrawInitiated().process_receipt(receipt)
    mined_at = view.web3.eth.get_block(receipt["blockNumber"])["timestamp"]
    assert event["args"]["finalizeAfter"] == mined_at + device.offer["withdrawDelay"]
    until(lambda: device.probe()["balance"] == 2 * TOKEN, "the withdrawal")
    above = device.send("usage", device.usage(1, maxClaimableAmount=2 * TOKEN + 1))
    assert above["reason"] == "ceiling_above_balance"
    device.book.balance = 2 * TOKEN
    checked(device.pay(10), device, 2)
    assert view.settlement.functions.pendingWithdrawals(device.book.id).call()[0] == 3 * TOKEN


def test_a_channel_opened_on_chain_by_an_outsider_and_bound_later(site: Site, view: ChainView) -> None:
    """Money that is in the channel before the gateway has heard of it counts once the device opens it."""
    device = site.join("early")
    config = device.new_config()
    first = device.deposit(config, 2 * TOKEN)
    call = view.settlement.functions.deposit(config.abi(), 2 * TOKEN, view.collector, _collector_data(first))
    assert view.send(device.payer, call)["status"] == 1
    receipt = device.connection.ask("open", device.encoded(device.opening(config, TOKEN)))
    assert (receipt.get("reason"), receipt.get("balance")) == (None, 3 * TOKEN), receipt


def test_the_demo_ends_with_its_books_conserved_after_all_that(site: Site, view: ChainView) -> None:
    """The last test of this module; foreign transfers, withdrawals and deposits have not shaken the books."""
    treasury_or_lane = site.join(payer=key("nobody")).offer["lanes"][0]["payTo"]
    donor = site.payer()
    for receiver in (treasury_or_lane, SETTLEMENT):
        assert view.send(donor, view.token.functions.transfer(Web3.to_checksum_address(receiver), 777))["status"] == 1
    site.leave()
    site.demo.process.terminate()
    result = site.demo.result()
    assert result["conserved"] is True, site.demo.report()
    assert site.demo.process.returncode == 0, site.demo.report()
