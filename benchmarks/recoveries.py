"""Bare libsecp256k1: what verifying costs when nothing else is done, the wall before every path with signatures."""

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeAlias

from coincurve import PublicKey

from benchmarks.frame import BenchmarkFailed
from channels.signatures import recover
from channels.types import Address, Digest, Signature

Verified: TypeAlias = tuple[Digest, Signature, Address]
PROBES = 16


def recoveries(verified: Sequence[Verified], threads: int) -> float:
    """Return seconds to recover every public key, and nothing else, by coincurve on threads.

    coincurve gives up the GIL inside libsecp256k1. Raises BenchmarkFailed if a signature is not its signer's.
    """
    for digest, signature, signer in verified[:: max(1, len(verified) // PROBES)]:
        if recover(digest, signature) != signer:
            raise BenchmarkFailed("a signature is not its signer's")
    ready = [(signature[:64] + bytes((signature[64] - 27,)), digest) for digest, signature, _ in verified]
    shares = [ready[start::threads] for start in range(threads)]

    def work(share: list[tuple[bytes, bytes]]) -> int:
        recovered = [
            PublicKey.from_signature_and_message(signature, digest, hasher=None) for signature, digest in share
        ]
        return len(recovered)

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(len, shares))
        started = time.perf_counter()
        done = sum(pool.map(work, shares))
        seconds = time.perf_counter() - started
    if done != len(ready):
        raise BenchmarkFailed(f"{done} of {len(ready)} signatures were recovered")
    return seconds
