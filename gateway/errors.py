"""What can go wrong in the shell.

    GatewayError
    ├── SetupError      the operator can mend it: bad configuration, missing key, occupied port, no broker or chain.
    │                   Commands print its one sentence and end with exit code 2.
    └── JournalFault    the journal could not be written or does not replay. The process stops rather than guess.

Faults of the books are `channels.invariants.InvariantViolation` and `channels.machine.Contradiction`; those of
the chain are in `settlement.errors`.
"""


class GatewayError(Exception):
    """The root of the shell's own errors."""


class SetupError(GatewayError):
    """Something the operator can mend; the message says what happened, why, and what to do."""


class JournalFault(GatewayError):
    """The journal failed: nothing after the last commit was acknowledged, shown or paid."""
