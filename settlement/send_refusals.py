"""Why a node does not take a signed transaction, told by its words.

Codes say nothing (-32000 is all of these), and words differ from node to node; those here are of geth, Erigon,
reth, Nethermind, Besu, anvil and the embedded layer. Nothing irrevocable hangs on them: a transaction stays
outstanding whatever a node says, and receipts and nonces tell what became of it.
"""

from enum import Enum, auto

from settlement.errors import ChainRefused


class SendRefusal(Enum):
    """What a refusal of eth_sendRawTransaction means for the transaction."""

    KNOWN = auto()  # the node has it already: a success
    NONCE_PASSED = auto()  # it, a replacement of it, or another one was mined
    OTHER_WAITS = auto()  # another one of this nonce waits there, and offers nearly as much or more
    FEE_TOO_LOW = auto()  # below what the chain asks now
    NO_FUNDS = auto()  # the key lacks coins for all that it has outstanding
    OTHER = auto()


# In this order: "replacement transaction underpriced" is not "transaction underpriced".
_WORDS: tuple[tuple[SendRefusal, tuple[str, ...]], ...] = (
    (
        SendRefusal.KNOWN,
        (
            "already known",
            "alreadyknown",
            "known transaction",
            "already imported",
            "already exists",
            "already in mempool",
        ),
    ),
    (SendRefusal.NONCE_PASSED, ("nonce too low", "nonce is too low", "nonce_too_low", "oldnonce")),
    (
        SendRefusal.OTHER_WAITS,
        (
            "replacement transaction underpriced",
            "replacement not allowed",
            "replacementnotallowed",
            "could not replace existing",
            "ownnoncealreadyused",
        ),
    ),
    (
        SendRefusal.FEE_TOO_LOW,
        (
            "underpriced",
            "less than block base fee",
            "less than the block base fee",
            "fee too low",
            "feetoolow",
            "below configured minimum gas price",
            "gas price too low",
        ),
    ),
    (SendRefusal.NO_FUNDS, ("insufficient funds", "insufficientfunds", "upfront cost exceeds", "insufficient balance")),
)


def meaning_of(refused: ChainRefused) -> SendRefusal:
    """Return what a refusal of eth_sendRawTransaction means."""
    words = refused.message.lower()
    return next((meaning for meaning, known in _WORDS if any(text in words for text in known)), SendRefusal.OTHER)
