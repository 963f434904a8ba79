"""What a message says and whether its signer signed it: the first half of the pipeline, on threads.

Most of the time that this takes is libsecp256k1's, which needs no GIL. A thread that takes the GIL back
after each signature waits for the others as long as a signature takes, so a share of signatures is recovered in one
call of the embedded layer's; by coincurve, a call each, two cores did no more than one and a half.
"""

import asyncio
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple, TypeAlias

from parallel_evm import recover_signers

from channels.digests import close_digest, reading_digest, voucher_digest
from channels.types import Address, Digest, Network, Signature
from devices.codec import decode
from devices.link import Frame
from devices.messages import Close, Earn, Message, Undecodable, Usage
from gateway.ledger import Ledger

# A hop to a thread and back costs about 60 µs, a message about as much: smaller batches and shares do not pay.
BATCH_MIN, SHARE_MIN = 8, 24
# At the end of a batch no core waits for the other longer than this takes, some 3 ms.
SHARE_MAX = 64
# What decoding needs of the GIL leaves no more to be won on more cores.
THREADS_MAX = 4

# A digest, its signature, and whose it has to be.
Check: TypeAlias = tuple[Digest, Signature, Address]


class Judged(NamedTuple):
    """A message and what was found out about it."""

    message: Message | Undecodable
    known: bool  # the channel or account that it names is in the books
    signed: bool  # every signature that it needs is its signer's


class Judge:
    """Decodes and verifies. It only looks keys up, and they never change: threads may read them beside the loop."""

    def __init__(self, ledger: Ledger, network: Network, *, gateway: str, readings_signed: bool) -> None:
        self._ledger = ledger
        self._network = network
        self._gateway = gateway
        self._readings_signed = readings_signed
        # Those that this process may use; not every system can tell.
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        self._parallel = min(THREADS_MAX, cores)
        self._threads = ThreadPoolExecutor(self._parallel, thread_name_prefix="judge")

    async def batch(self, frames: Sequence[Frame]) -> list[Judged]:
        """Judge a batch, in its order."""
        count = len(frames)
        if self._parallel == 1 or count < BATCH_MIN:
            return self.judge(frames)
        shares_wanted = max(1, min(self._parallel, count // SHARE_MIN), -(-count // SHARE_MAX))
        size = -(-count // shares_wanted)
        loop = asyncio.get_running_loop()
        shares = await asyncio.gather(
            *(
                loop.run_in_executor(self._threads, self.judge, frames[start : start + size])
                for start in range(0, count, size)
            )
        )
        return [judged for share in shares for judged in share]

    def judge(self, frames: Sequence[Frame]) -> list[Judged]:
        """Judge messages here and now."""
        return self._judged([decode(frame.leaf, frame.payload) for frame in frames])

    def again(self, message: Message | Undecodable) -> Judged:
        """Judge a message whose sender was not known: by now it may be."""
        return self._judged((message,))[0]

    def _judged(self, messages: Sequence[Message | Undecodable]) -> list[Judged]:
        wanted = [self._checks(message) for message in messages]
        signers = iter(recover_signers([(check[0], check[1]) for checks in wanted if checks for check in checks]))
        judged = []
        for message, checks in zip(messages, wanted, strict=True):
            verdicts = [next(signers) == signer for _, _, signer in checks or ()]
            judged.append(Judged(message, checks is not None, bool(verdicts) and all(verdicts)))
        return judged

    def _checks(self, message: Message | Undecodable) -> Sequence[Check] | None:
        """Return the signatures to verify, none when a required one is missing; None for an unknown sender."""
        if isinstance(message, Usage):
            channel = self._ledger.channels.get(message.id)
            if channel is None:
                return None
            signer = channel.config.payer_authorizer
            check = voucher_digest(message.id, message.ceiling, self._network), message.signature, signer
            if message.reading_signature is None:
                return () if self._readings_signed else (check,)
            return check, (self._reading_digest(message, message.ceiling), message.reading_signature, signer)
        if isinstance(message, Earn):
            account = self._ledger.accounts.get(message.id)
            if account is None:
                return None
            return ((self._reading_digest(message, 0), message.reading_signature, account.meter_key),)
        if isinstance(message, Close):
            channel = self._ledger.channels.get(message.id)
            if channel is None:
                return None
            digest = close_digest(message.id, self._gateway, channel.device, message.seq, self._network)
            return ((digest, message.signature, channel.config.payer_authorizer),)
        return None  # whoever handles `open` and `state` looks for what they need

    def _reading_digest(self, message: Usage | Earn, ceiling: int) -> Digest:
        return reading_digest(
            message.id, message.seq, message.register, message.time, message.offer, ceiling, self._network
        )
