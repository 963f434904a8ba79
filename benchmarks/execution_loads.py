"""Blocks to execute: token transfers and claims, signed before any clock runs, and the genesis they start from."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

from channels.digests import channel_id, keccak, voucher_digest
from channels.signatures import key_address, sign
from channels.types import SETTLEMENT_ADDRESS, Address, ChannelConfig, Digest, Network, Signature
from settlement.calls import VoucherClaim, claim, transfer
from settlement.contracts import artifact, mapping_slot
from settlement.genesis import TOKEN_ADDRESS, genesis
from settlement.transactions import Transaction, sign_transaction

CHAIN_ID = 31402
NETWORK = Network(CHAIN_ID)
TRANSFERS = 4_000
CLAIMS = 48
ROWS = 100
LANES = 4
GWEI = 10**9
COINS = 10**20
TRANSFER_GAS = 100_000
CLAIM_GAS = 6_000_000
GENESIS_TIME = 1_700_000_000
# A channel's deposit and what is claimed of it, in token base units.
BALANCE = 10**9
CLAIMED = 500


@dataclass(frozen=True, slots=True)
class Load:
    """One block's transactions, in order. `verified`: signatures inside them, as (digest, signature, signer)."""

    name: str
    alloc: str  # the genesis as JSON text
    raws: tuple[bytes, ...]
    logs: int  # of each transaction
    verified: tuple[tuple[Digest, Signature, Address], ...] = ()

    @property
    def anvil_genesis(self) -> str:
        """The same genesis with the fields that anvil's `--init` wants beside ours."""
        rules = {"chainId": CHAIN_ID, "terminalTotalDifficulty": 0, "terminalTotalDifficultyPassed": True}
        beside = {"config": rules, "difficulty": "0x0", "nonce": "0x0", "extraData": "0x"}
        return json.dumps(json.loads(self.alloc) | beside)


@cache
def account(number: int) -> tuple[bytes, Address]:
    """Return the private key and the address of one of our senders."""
    key = keccak(b"execution benchmark %d" % number)
    return key, key_address(key)


def signed(key: bytes, nonce: int, to: Address, gas: int, data: bytes) -> bytes:
    """Return the raw bytes of one transaction."""
    return sign_transaction(Transaction(CHAIN_ID, nonce, GWEI, 10 * GWEI, gas, to, 0, data), key).raw


def _document(tokens: dict[Address, int], senders: set[Address], settlement: dict[bytes, int]) -> str:
    document: dict[str, Any] = genesis(tokens, dict.fromkeys(senders, COINS), timestamp=GENESIS_TIME)
    document["alloc"][f"0x{SETTLEMENT_ADDRESS.hex()}"]["storage"] = {
        f"0x{slot.hex()}": f"0x{value:064x}" for slot, value in settlement.items()
    }
    return json.dumps(document)


def _transfers(name: str, payee: Callable[[int], Address], *, chained: bool = False) -> Load:
    """One transfer of each sender. `chained`: only the first holds tokens, each pays on what it was just paid."""
    senders = [account(number) for number in range(TRANSFERS)]
    holders = senders[:1] if chained else senders
    raws = tuple(
        signed(key, 0, TOKEN_ADDRESS, TRANSFER_GAS, transfer(payee(number), CLAIMED))
        for number, (key, _) in enumerate(senders)
    )
    tokens = {address: CLAIMED if chained else BALANCE for _, address in holders}
    return Load(name, _document(tokens, {address for _, address in senders}, {}), raws, 1)


def _payee(number: int) -> Address:
    return keccak(b"payee %d" % number)[12:]


@cache
def transfers(name: str) -> Load:
    """Return one of the four transfer loads by its name; raises KeyError for another."""
    makers: dict[str, Callable[[], Load]] = {
        "transfers_free": lambda: _transfers(name, _payee),
        "transfers_hot16": lambda: _transfers(name, lambda number: _payee(number % 16)),
        "transfers_hot1": lambda: _transfers(name, lambda _: _payee(0)),
        "transfers_chain": lambda: _transfers(name, lambda number: account(number + 1)[1], chained=True),
    }
    return makers[name]()


@cache
def claims(*, one_receiver: bool = False) -> Load:
    """Return claims of 100 rows over the lanes in turn; each lane is paid for itself, or all for one receiver.

    Receivers have been paid before, channels are funded and were never claimed.
    """
    layout = artifact("BatchSettlement").storage_layout
    lanes = [account(1_000_000 + lane) for lane in range(LANES)]
    settlement: dict[bytes, int] = {}
    verified: list[tuple[Digest, Signature, Address]] = []
    raws = []
    for number in range(CLAIMS):
        key, lane = lanes[number % LANES]
        receiver = _payee(0) if one_receiver else lane
        settlement[mapping_slot(layout["receiver_words"], receiver, TOKEN_ADDRESS)] = 1
        rows = []
        for index in range(number * ROWS, (number + 1) * ROWS):
            device_key, device = account(2_000_000 + index % 64)
            config = ChannelConfig(
                payer=account(3_000_000)[1],
                payer_authorizer=device,
                receiver=receiver,
                receiver_authorizer=lane,
                token=TOKEN_ADDRESS,
                withdraw_delay=86_400,
                salt=index.to_bytes(32, "big"),
            )
            channel = channel_id(config, NETWORK)
            settlement[mapping_slot(layout["channel_words"], channel)] = BALANCE
            digest = voucher_digest(channel, CLAIMED, NETWORK)
            signature = sign(digest, device_key)
            verified.append((digest, signature, device))
            rows.append(VoucherClaim(config, CLAIMED, signature, CLAIMED))
        raws.append(signed(key, number // LANES, SETTLEMENT_ADDRESS, CLAIM_GAS, claim(rows)))
    name = "claims_one_receiver" if one_receiver else "claims_lanes"
    return Load(name, _document({}, {address for _, address in lanes}, settlement), tuple(raws), ROWS, tuple(verified))
