"""What can go wrong between the gateway and an execution layer.

    ChainError
    ├── ChainUnavailable   nothing is known: connection, time-out, 429 or 5xx. Ask again later.
    ├── ChainRefused       the node understood and said no: its JSON-RPC error code and message.
    └── ChainMisbehaved    a fault: an answer of the wrong shape, size or range, or of another chain. Stop.
        ├── AnswerTooLarge     more than the transport takes; asking for less may help.
        └── NonceTaken         another transaction was mined with a nonce of ours.

A contract that reverts is none of these: it is an answer (`settlement.port.Revert`).
"""


class ChainError(Exception):
    """Root of all errors of an execution layer."""


class ChainUnavailable(ChainError):
    """The node could not be asked, or its answer was lost. What was sent may or may not have arrived."""


class ChainRefused(ChainError):
    """The node answered with a JSON-RPC error.

    `code` and `message` are the node's; `data` is the error's data when it was a hex string, else None.
    """

    def __init__(self, code: int, message: str, data: bytes | None = None) -> None:
        super().__init__(f"the node refused ({code}): {message}")
        self.code = code
        self.message = message
        self.data = data


class ChainMisbehaved(ChainError):
    """The node, or a contract behind it, answered with something that cannot be right."""


class AnswerTooLarge(ChainMisbehaved):
    """An answer above the transport's bound. A smaller question may have a smaller answer."""


class NonceTaken(ChainMisbehaved):
    """Another transaction than ours was mined with a nonce of our key: the key is in use elsewhere."""
