"""An embedded EVM execution layer for one site, with Ethereum JSON-RPC in process."""

from os import PathLike
from typing import final

__version__: str

class RpcError(Exception):
    """A refusal: JSON-RPC error code, sentence, and revert data where there is any."""

    code: int
    message: str
    data: bytes | None

@final
class BlockStats:
    """Figures of one produced block; times in microseconds, counts in transactions."""

    number: int
    hash: bytes
    timestamp: int
    transactions: int
    skipped: int
    gas_used: int
    executions: int
    reexecuted: int
    aborted: int
    fell_back: bool
    threads: int
    busy_us: int
    execute_us: int
    root_us: int
    persist_us: int
    total_us: int

@final
class Chain:
    """An execution layer in this process. Every method may be called from any thread and releases the GIL."""

    def __init__(
        self,
        *,
        chain_id: int = 31402,
        genesis: str = "{}",
        hardfork: str = "cancun",
        auto_mine: bool = False,
        dev: bool = False,
        threads: int | None = None,
        coinbase: bytes | None = None,
        fixed_base_fee: bool = True,
        path: str | PathLike[str] | None = None,
        history_blocks: int = 65_536,
        keep_logs: bool = False,
    ) -> None: ...
    def rpc(self, body: bytes) -> bytes: ...
    def send_raw_transaction(self, raw: bytes) -> bytes: ...
    def send_raw_transactions(self, raws: list[bytes]) -> list[bytes | RpcError]: ...
    def produce_block(self, timestamp: int | None = None) -> BlockStats: ...
    def call(self, to: bytes, data: bytes, *, sender: bytes | None = None, value: int | None = None) -> bytes: ...
    def balance(self, account: bytes) -> int: ...
    def nonce(self, account: bytes, *, pending: bool = False) -> int: ...
    def code(self, account: bytes) -> bytes: ...
    def storage_at(self, account: bytes, slot: int) -> int: ...
    def set_next_timestamp(self, timestamp: int) -> None: ...
    def snapshot(self) -> int: ...
    def revert(self, snapshot: int) -> None: ...
    def prime_ecrecover(self, verified: list[tuple[bytes, bytes, bytes]]) -> None: ...
    def compact(self) -> None: ...
    def close(self) -> None: ...
    def stats(self) -> dict[str, int]: ...
    def block_lanes(self, number: int) -> list[tuple[bytes, int, int]]: ...
    def last_block_stats(self) -> BlockStats: ...
    @property
    def chain_id(self) -> int: ...
    @property
    def block_number(self) -> int: ...
    @property
    def block_timestamp(self) -> int: ...
    @property
    def state_root(self) -> bytes: ...
    @property
    def pending_count(self) -> int: ...

def recover_signers(signed: list[tuple[bytes, bytes]]) -> list[bytes | None]:
    """Return each (digest, signature) pair's signer, or None where contracts refuse it; releases the GIL."""
