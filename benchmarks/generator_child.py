"""The load generator, a process of its own: python -m benchmarks.generator_child.

Requests are lines of JSON on its standard input, one answer each:

    {"do": "connect", "port": P, "devices": N, "connections": C, "echo": false}
    {"do": "open"}                                    opens every device's channel
    {"do": "sign", "count": N, "encoding": "json"}    signs and encodes the next N readings, round robin
    {"do": "saturate", "window": W}                   sends them with W unanswered at most
    {"do": "pace", "rate": R}                         sends them at R a second, answered or not

`pace` is an open loop: a latency counts from when the message was due, so a late generator or a stalled gateway is
seen and not omitted. With "echo" there is no gateway, and answers are only counted.
"""

import asyncio
import json
import sys
import time
from collections import deque
from typing import Any

from benchmarks.load import Channel, open_payload, reading_payload, topic
from benchmarks.mqtt import Connection, publish_packet
from benchmarks.population import GATEWAY, SERVICE, member
from channels.refusals import Refusal
from devices.messages import Status
from devices.offers import Offer, parse_offer
from devices.receipts import decode_receipt

OPENS_IN_FLIGHT = 128
# Without any answer for this long something is broken.
STALL_S = 30.0


class GeneratorFailed(Exception):
    """The load could not be put on; the message says why."""


class Lane:
    """One connection with the packets that are to go over it, and when answers came."""

    def __init__(self) -> None:
        self.connection: Connection | None = None
        self.packets: deque[bytes] = deque()
        self.sent = 0
        self.answered: list[tuple[int, bytes]] = []
        self._packet_id = 0

    def put(self, device: str, payload: bytes, leaf: str = "usage") -> None:
        """Encode one message for later."""
        self._packet_id = self._packet_id % 65_535 + 1
        self.packets.append(publish_packet(topic(device, leaf), self._packet_id, payload))

    def send(self, count: int) -> None:
        """Send the next messages, as one write."""
        assert self.connection is not None, "connect comes first"
        chosen = [self.packets.popleft() for _ in range(min(count, len(self.packets)))]
        if chosen:
            self.connection.write(b"".join(chosen))
            self.sent += len(chosen)

    def begin(self) -> None:
        """Forget what was counted before."""
        self.sent = 0
        self.answered = []


class Generator:
    """All devices of one measurement."""

    def __init__(self) -> None:
        self.lanes: list[Lane] = []
        self.channels: list[Channel] = []
        self.offer: Offer | None = None
        self.echo = False
        self._next = 0
        self._arrived = asyncio.Event()
        self._offered = asyncio.Event()

    async def connect(self, request: dict[str, Any]) -> dict[str, Any]:
        """Connect, subscribe to every device's receipts and wait for the offer."""
        self.echo = request["echo"]
        members = [member(index) for index in range(request["devices"])]
        self.lanes = [Lane() for _ in range(request["connections"])]
        for index, lane in enumerate(self.lanes):
            lane.connection = await Connection.open(request["port"], f"load-{index}", self._receiver(lane))
            own = members[index :: len(self.lanes)]
            await lane.connection.subscribe([topic(each.device, "receipt") for each in own])
        if not self.echo:
            assert self.lanes[0].connection is not None, "connected above"
            await self.lanes[0].connection.subscribe([f"mp/1/{GATEWAY}/offer"])
            async with asyncio.timeout(STALL_S):
                await self._offered.wait()
        self.channels = [Channel(each, each.address.ljust(32, b"\0")) for each in members]
        return {"devices": len(members)}

    def _receiver(self, lane: Lane) -> Any:
        def receive(name: bytes, payload: bytes) -> None:
            if name.endswith(b"/receipt"):
                lane.answered.append((time.perf_counter_ns(), payload))
                self._arrived.set()
            elif name.endswith(b"/offer"):
                self.offer = parse_offer(payload)
                self._offered.set()

        return receive

    async def open(self, request: dict[str, Any]) -> dict[str, Any]:
        """Open every channel by a deposit."""
        assert self.offer is not None, "there is an offer after connect"
        for index, channel in enumerate(self.channels):
            channel.id, payload = open_payload(channel.member, self.offer)
            self._lane(index).put(channel.member.device, payload, "open")
        seconds = await self._windowed(OPENS_IN_FLIGHT)
        self._check()
        return {"opened": len(self.channels), "seconds": seconds}

    async def sign(self, request: dict[str, Any]) -> dict[str, Any]:
        """Make the next readings."""
        offer_id, price = bytes(16), 150 * 10**9
        if self.offer is not None:
            offer_id, price = self.offer.id, self.offer.services[SERVICE].price
        for _ in range(request["count"]):
            index = self._next % len(self.channels)
            self._next += 1
            channel = self.channels[index]
            payload = reading_payload(channel, offer_id, price, request["encoding"])
            self._lane(index).put(channel.member.device, payload)
        return {"signed": request["count"]}

    async def saturate(self, request: dict[str, Any]) -> dict[str, Any]:
        """Send all, with a bounded number unanswered; the clock runs from the first send to the last answer."""
        messages = sum(len(lane.packets) for lane in self.lanes)
        cpu = time.process_time()
        seconds = await self._windowed(request["window"])
        cpu = time.process_time() - cpu
        self._check()
        return {"messages": messages, "seconds": seconds, "cpu_share": cpu / seconds}

    async def pace(self, request: dict[str, Any]) -> dict[str, Any]:
        """Send all at a fixed rate; returns the sorted latencies in microseconds, from due to answered."""
        for lane in self.lanes:
            lane.begin()
        due: list[list[int]] = [[] for _ in self.lanes]
        total = sum(len(lane.packets) for lane in self.lanes)
        begun = time.perf_counter_ns() + 50_000_000
        for number in range(total):
            at = begun + number * 1_000_000_000 // request["rate"]
            await asyncio.sleep(max(0, at - time.perf_counter_ns()) / 1e9)
            index = number % len(self.lanes)
            self.lanes[index].send(1)
            due[index].append(at)
        await self._all_answered(total)
        self._check()
        # One gateway answers a connection's messages in the order in which they came.
        latencies = [
            (when - at) // 1000
            for lane, times in zip(self.lanes, due, strict=True)
            for at, (when, _) in zip(times, lane.answered, strict=True)
        ]
        return {"latencies_us": sorted(latencies)}

    # -- inside --

    def _lane(self, index: int) -> Lane:
        return self.lanes[index % len(self.lanes)]

    async def _windowed(self, window: int) -> float:
        """Send all packets, `window` of them unanswered at most; returns the seconds to the last answer."""
        share = max(1, window // len(self.lanes))
        total = sum(len(lane.packets) for lane in self.lanes)
        for lane in self.lanes:
            lane.begin()
        started = time.perf_counter()
        while True:
            self._arrived.clear()
            for lane in self.lanes:
                lane.send(share - (lane.sent - len(lane.answered)))
            if sum(len(lane.answered) for lane in self.lanes) >= total:
                return time.perf_counter() - started
            await self._progress()

    async def _all_answered(self, total: int) -> None:
        while sum(len(lane.answered) for lane in self.lanes) < total:
            self._arrived.clear()
            await self._progress()

    async def _progress(self) -> None:
        try:
            await asyncio.wait_for(self._arrived.wait(), STALL_S)
        except TimeoutError:
            counts = [(lane.sent, len(lane.answered)) for lane in self.lanes]
            raise GeneratorFailed(f"no answer for {STALL_S:g} s; sent and answered per connection: {counts}") from None

    def _check(self) -> None:
        """Every answer must be an acceptance: a refused payment is none."""
        if self.echo:
            return
        for lane in self.lanes:
            for _, payload in lane.answered:
                receipt = decode_receipt(payload)
                if receipt.status is not Status.ACCEPTED:
                    reason = "duplicate" if receipt.reason is None else Refusal(receipt.reason).wire_name
                    raise GeneratorFailed(f"a message was not accepted: {reason}")


async def main() -> None:
    """Answer requests until the input ends."""
    generator = Generator()
    loop = asyncio.get_running_loop()
    work = {
        "connect": generator.connect,
        "open": generator.open,
        "sign": generator.sign,
        "saturate": generator.saturate,
        "pace": generator.pace,
    }
    reader = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while line := await reader.readline():
        request = json.loads(line)
        try:
            answer = await work[request["do"]](request)
        except (GeneratorFailed, OSError, TimeoutError) as error:
            answer = {"failed": f"{request['do']}: {error}"}
        print(json.dumps(answer), flush=True)
    for lane in generator.lanes:
        if lane.connection is not None:
            lane.connection.close()


if __name__ == "__main__":
    asyncio.run(main())
