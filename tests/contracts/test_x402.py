"""The stock x402 client pays and the stock x402 facilitator settles, on our contracts, over HTTP."""

from collections.abc import Iterator
from typing import Any

import pytest
from eth_account import Account
from eth_typing import HexStr
from web3 import Web3
from web3.logs import DISCARD
from x402.mechanisms.evm.batch_settlement.abi import BATCH_SETTLEMENT_ABI
from x402.mechanisms.evm.batch_settlement.authorizer_signer import LocalAuthorizerSigner
from x402.mechanisms.evm.batch_settlement.client.config import BatchSettlementEvmSchemeOptions
from x402.mechanisms.evm.batch_settlement.client.scheme import BatchSettlementEvmScheme
from x402.mechanisms.evm.batch_settlement.facilitator.scheme import BatchSettlementEvmFacilitator
from x402.mechanisms.evm.batch_settlement.types import (
    ChannelConfig,
    ClaimPayload,
    EnrichedRefundPayload,
    SettlePayload,
    VoucherClaim,
    VoucherFields,
)
from x402.mechanisms.evm.signers import EthAccountSigner, FacilitatorWeb3Signer
from x402.schemas import PaymentPayload, PaymentRequirements, SettleResponse

from tests.contracts.chain import Chain, running_anvil, to_hex
from tests.contracts.world import (
    AUTHORIZER,
    DELAY,
    FUNDS,
    NETWORK,
    OTHER,
    PAYER,
    RECEIVER,
    SIGNER,
    TOKEN_ADDRESS,
    Channel,
    World,
)

PRICE = 1_000


@pytest.fixture
def mining_world() -> Iterator[World]:
    """A chain of its own that mines by itself and keeps the wall clock's time, as the stock facilitator expects."""
    with running_anvil() as url:
        chain = Chain(url)
        world = World(chain)
        chain.rpc("anvil_setBalance", to_hex(OTHER.address), hex(10**20))
        chain.rpc("evm_setAutomine", True)
        yield world
        chain.close()


def requirements(amount: int = PRICE) -> PaymentRequirements:
    return PaymentRequirements(
        scheme="batch-settlement",
        network=NETWORK,
        asset=to_hex(TOKEN_ADDRESS),
        amount=str(amount),
        pay_to=to_hex(RECEIVER.address),
        max_timeout_seconds=3600,
        extra={
            "receiverAuthorizer": to_hex(AUTHORIZER.address),
            "withdrawDelay": DELAY,
            "name": "USD Coin",
            "version": "2",
        },
    )


class Facilitator:
    """The stock facilitator, with the receiver's authorizer as its signer."""

    def __init__(self, url: str) -> None:
        signer = FacilitatorWeb3Signer(to_hex(OTHER.secret), url)
        self._stock = BatchSettlementEvmFacilitator(signer, LocalAuthorizerSigner(to_hex(AUTHORIZER.secret)))

    def verify(self, payload: dict[str, Any]) -> tuple[bool, str | None]:
        answer = self._stock.verify(PaymentPayload(payload=payload, accepted=requirements()), requirements())
        return answer.is_valid, answer.invalid_reason

    def settle(self, payload: dict[str, Any]) -> SettleResponse:
        wanted = requirements()
        answer = self._stock.settle(PaymentPayload(payload=payload, accepted=wanted), wanted)
        assert answer.success, (answer.error_reason, answer.error_message)
        return answer


def test_from_deposit_to_refund(mining_world: World) -> None:
    world = mining_world
    facilitator = Facilitator(world.chain.url)
    client = BatchSettlementEvmScheme(
        EthAccountSigner(Account.from_key(PAYER.secret)),
        BatchSettlementEvmSchemeOptions(
            payer_authorizer=to_hex(SIGNER.address),
            voucher_signer=EthAccountSigner(Account.from_key(SIGNER.secret)),
        ),
    )
    channel = Channel()

    opening = client.create_payment_payload(requirements())
    assert opening["type"] == "deposit"
    amount = int(opening["deposit"]["amount"])
    assert facilitator.verify(opening) == (True, None)
    deposited = facilitator.settle(opening)
    assert deposited.extra is not None
    assert deposited.extra["channelState"]["balance"] == str(amount)
    assert world.state(channel) == (amount, 0)
    assert facilitator.verify(opening)[0] is False  # its authorization is spent

    # Then vouchers alone; the client pays as it pleases within its balance.
    voucher = client._create_voucher_payload(
        opening["voucher"]["channelId"], str(3 * PRICE), NETWORK, ChannelConfig.from_dict(opening["channelConfig"])
    )
    assert facilitator.verify(voucher) == (True, None)
    claim = VoucherClaim(channel.x402(), str(3 * PRICE), voucher["voucher"]["signature"], str(2 * PRICE))
    facilitator.settle(ClaimPayload(claims=[claim]).to_dict())
    assert world.state(channel) == (amount, 2 * PRICE)

    settled = facilitator.settle(
        SettlePayload(receiver=to_hex(RECEIVER.address), token=to_hex(TOKEN_ADDRESS)).to_dict()
    )
    contract = Web3(Web3.HTTPProvider(world.chain.url)).eth.contract(abi=BATCH_SETTLEMENT_ABI)
    receipt = contract.w3.eth.get_transaction_receipt(HexStr(settled.transaction))
    (event,) = contract.events.Settled().process_receipt(receipt, DISCARD)
    assert event["args"]["amount"] == 2 * PRICE
    assert world.balance(RECEIVER.address) == 2 * PRICE

    # A last claim and the refund of the rest go through multicall.
    last = VoucherClaim(channel.x402(), str(3 * PRICE), voucher["voucher"]["signature"], str(3 * PRICE))
    refund = EnrichedRefundPayload(
        channel_config=channel.x402(),
        voucher=VoucherFields.from_dict(voucher["voucher"]),
        amount=str(amount),
        refund_nonce="0",
        claims=[last],
    )
    refunded = facilitator.settle(refund.to_dict())
    assert refunded.amount == str(amount - 3 * PRICE)
    assert world.state(channel) == (3 * PRICE, 3 * PRICE)
    assert world.balance(PAYER.address) == FUNDS - 3 * PRICE


def test_the_stock_facilitator_names_the_tokens_refusal(mining_world: World) -> None:
    """What the contracts revert with reaches the stock client in words it sorts by."""
    facilitator = Facilitator(mining_world.chain.url)
    client = BatchSettlementEvmScheme(EthAccountSigner(Account.from_key(SIGNER.secret)))  # has no tokens
    opening = client.create_payment_payload(requirements())
    valid, reason = facilitator.verify(opening)
    assert (valid, reason) == (False, "invalid_batch_settlement_evm_insufficient_balance")
