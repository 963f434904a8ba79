"""The words by which nodes refuse a transaction."""

import pytest

from settlement.errors import ChainRefused
from settlement.send_refusals import SendRefusal, meaning_of

WORDS = {
    SendRefusal.KNOWN: (
        "already known",  # geth, Erigon, reth, the embedded layer
        "AlreadyKnown",  # Nethermind
        "Known transaction",  # Besu
        "transaction already imported",  # anvil
    ),
    SendRefusal.NONCE_PASSED: ("nonce too low: next nonce 7, tx nonce 5", "OldNonce", "Nonce too low"),
    SendRefusal.OTHER_WAITS: (
        "replacement transaction underpriced",
        "ReplacementNotAllowed",
        "could not replace existing tx",
        "OwnNonceAlreadyUsed",
    ),
    SendRefusal.FEE_TOO_LOW: (
        "transaction underpriced: tip needed 25, tip permitted 1",
        "max fee per gas less than block base fee: address 0x, maxFeePerGas: 7, baseFee: 9",
        "FeeTooLow, MaxFeePerGas too low",
        "Gas price below configured minimum gas price",
    ),
    SendRefusal.NO_FUNDS: (
        "insufficient funds for gas * price + value: balance 0, tx cost 5, overshot 5",
        "InsufficientFunds, Account balance: 0",
        "Upfront cost exceeds account balance",
    ),
    SendRefusal.OTHER: ("txpool is full", "exceeds block gas limit", "internal error", ""),
}


@pytest.mark.parametrize(("meaning", "words"), [(meaning, words) for meaning in WORDS for words in WORDS[meaning]])
def test_words(meaning: SendRefusal, words: str) -> None:
    assert meaning_of(ChainRefused(-32000, words)) is meaning
