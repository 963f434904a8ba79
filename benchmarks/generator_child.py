"""The load generator, a process of its own: python -m benchmarks.generator_child.

Requests are lines of JSON on its standard input, one answer each:

    {"do": "connect", "port": P, "devices": N, "connections": C, "echo": false}
    {"do": "reconnect", "connections": C}             connects and subscribes anew, over so many connections
    {"do": "open"}                                    opens every device's channel
    {"do": "attach"}                                  takes the channels that `settlement_homes.payers` have
    {"do": "sign", "count": N, "encoding": "json"}    signs and encodes the next N readings, round robin
    {"do": "saturate", "window": W}                   sends them with W unanswered at most
    {"do": "pace", "rate": R}                         sends them at R a second, answered or not
    {"do": "charged"}                                 says what all readings come to, in base units

`pace` is an open loop: a latency counts from when the message was due, so a late generator or a stalled gateway is
seen and not omitted. With "echo" the devices talk to the bare echo, whose answers are only counted. Both say what
share of one core this process took.
"""

import asyncio
import json
import sys
import time
from collections import deque
from typing import Any

from benchmarks.load import NETWORK, Channel, config_of, open_payload, reading_payload, topic
from benchmarks.mqtt import Connection, publish_packet
from benchmarks.population import ECHO, GATEWAY, SERVICE, member
from benchmarks.settlement_homes import payers
from channels.digests import channel_id
from channels.refusals import Refusal
from devices.messages import Status
from devices.offers import Offer, parse_offer
from devices.receipts import decode_receipt

OPENS_IN_FLIGHT = 128
# Without any answer for this long something is broken.
STALL_S = 30.0
NANO = 10**9
# Messages that are overdue are sent in parts, so that answers are read in between.
BURST_MAX = 64


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

    def put(self, name: str, payload: bytes) -> None:
        """Encode one message to a topic, for later."""
        self._packet_id = self._packet_id % 65_535 + 1
        self.packets.append(publish_packet(name, self._packet_id, payload))

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
        self._port = 0
        self._next = 0
        self._queued: deque[Lane] = deque()  # the lanes of what is signed, in the order in which it was
        self._arrived = asyncio.Event()
        self._offered = asyncio.Event()

    async def connect(self, request: dict[str, Any]) -> dict[str, Any]:
        """Connect, subscribe to every device's receipts and wait for the offer."""
        self.echo, self._port = request["echo"], request["port"]
        members = [member(index) for index in range(request["devices"])]
        self.channels = [Channel(each, each.address.ljust(32, b"\0")) for each in members]
        return await self.reconnect(request)

    async def reconnect(self, request: dict[str, Any]) -> dict[str, Any]:
        """Open every connection anew; nothing may be unanswered."""
        self._offered.clear()
        for lane in self.lanes:
            if lane.connection is not None:
                lane.connection.close()
        self.lanes = [Lane() for _ in range(request["connections"])]
        for index, lane in enumerate(self.lanes):
            lane.connection = await Connection.open(self._port, f"load-{self._gateway}-{index}", self._receiver(lane))
            own = self.channels[index :: len(self.lanes)]
            await lane.connection.subscribe([topic(each.member.device, "receipt", self._gateway) for each in own])
        if not self.echo:
            assert self.lanes[0].connection is not None, "connected above"
            await self.lanes[0].connection.subscribe([f"mp/1/{GATEWAY}/offer"])
            async with asyncio.timeout(STALL_S):
                await self._offered.wait()
        return {"devices": len(self.channels)}

    @property
    def _gateway(self) -> str:
        return ECHO if self.echo else GATEWAY

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
            self._put(index, "open", payload)
        seconds = await self._windowed(OPENS_IN_FLIGHT)
        self._check()
        return {"opened": len(self.channels), "seconds": seconds}

    async def attach(self, request: dict[str, Any]) -> dict[str, Any]:
        """Go on where the journaled readings of as many payers ended."""
        assert self.offer is not None, "there is an offer after connect"
        for channel, home in zip(self.channels, payers(len(self.channels)), strict=True):
            channel.id = channel_id(config_of(channel.member, self.offer), NETWORK)
            channel.seq, channel.register = 1, home.imported
        return {"attached": len(self.channels)}

    async def sign(self, request: dict[str, Any]) -> dict[str, Any]:
        """Make the next readings; answers with the bytes of their payloads, too."""
        offer_id, price = bytes(16), 150 * 10**9
        if self.offer is not None:
            offer_id, price = self.offer.id, self.offer.services[SERVICE].price
        size = 0
        for _ in range(request["count"]):
            index = self._next % len(self.channels)
            self._next += 1
            payload = reading_payload(self.channels[index], offer_id, price, request["encoding"])
            self._put(index, "usage", payload)
            size += len(payload)
        return {"signed": request["count"], "bytes": size}

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
        due: dict[Lane, list[int]] = {lane: [] for lane in self.lanes}
        total, number, rate = len(self._queued), 0, request["rate"]
        cpu, begun = time.process_time(), time.perf_counter_ns() + 50_000_000
        while number < total:
            upto = (time.perf_counter_ns() - begun) * rate // NANO + 1
            for each in range(number, min(upto, number + BURST_MAX, total)):
                lane = self._queued.popleft()
                lane.send(1)
                due[lane].append(begun + each * NANO // rate)
            number = total - len(self._queued)
            await asyncio.sleep(max(0, begun + number * NANO // rate - time.perf_counter_ns()) / NANO)
        await self._all_answered(total)
        share = (time.process_time() - cpu) * NANO / (time.perf_counter_ns() - begun)
        self._check()
        # One gateway answers a connection's messages in the order in which they came.
        latencies = [
            (when - at) // 1000
            for lane, times in due.items()
            for at, (when, _) in zip(times, lane.answered, strict=True)
        ]
        lost = sum(lane.connection is None or lane.connection.lost for lane in self.lanes)
        return {"latencies_us": sorted(latencies), "cpu_share": share, "lost": lost}

    async def charged(self, request: dict[str, Any]) -> dict[str, Any]:
        """Add up what the registers say."""
        assert self.offer is not None, "an echo charges nothing"
        price = self.offer.services[SERVICE].price
        return {"charged": sum(channel.register * price // NANO for channel in self.channels)}

    # -- inside --

    def _put(self, index: int, leaf: str, payload: bytes) -> None:
        lane = self.lanes[index % len(self.lanes)]
        lane.put(topic(self.channels[index].member.device, leaf, self._gateway), payload)
        self._queued.append(lane)

    async def _windowed(self, window: int) -> float:
        """Send all packets, `window` of them unanswered at most; returns the seconds to the last answer."""
        self._queued.clear()
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
        "reconnect": generator.reconnect,
        "attach": generator.attach,
        "open": generator.open,
        "sign": generator.sign,
        "saturate": generator.saturate,
        "pace": generator.pace,
        "charged": generator.charged,
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
