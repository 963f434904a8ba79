"""The MQTT client when things go slowly, come to a stop or are killed."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from devices import network
from devices.client import DeviceLink, Frame, LinkUnavailable, MqttVersion
from tests.devices.test_client import BOTH, linked, settings, take, until
from tests.support.mosquitto import Mosquitto
from tests.support.mqtt_peer import Peer

MESSAGES = 5_000

pytestmark = pytest.mark.usefixtures("loop_kind")


def numbered(count: int) -> list[tuple[str, bytes]]:
    return [(f"mp/1/gw1/m{n % 7}/usage", b"%d" % n) for n in range(count)]


@BOTH
@pytest.mark.parametrize("window", [20, 0], ids=["the broker holds back", "the broker sends all"])
async def test_a_stalled_consumer_loses_nothing(tmp_path: Path, version: MqttVersion, window: int) -> None:
    broker = Mosquitto(tmp_path, window=window)
    broker.start()
    queue_max = 100
    try:
        async with linked(broker, protocol=version, queue_max=queue_max, keepalive_s=1, receive_maximum=65_535) as link:
            with Peer(broker.port) as peer:
                await asyncio.to_thread(peer.publish_all, numbered(MESSAGES))
                # Nobody takes anything for longer than the keep-alive allows: the connection must stand, and
                # what is read meanwhile must stay near the bound.
                stalled_until = time.monotonic() + 3
                most = 0
                while time.monotonic() < stalled_until:
                    most = max(most, link.queued)
                    await asyncio.sleep(0.02)
                assert 0 < most <= queue_max + 40
                frames: list[Frame] = []
                while len(frames) < MESSAGES:
                    batch = await asyncio.wait_for(link.receive(50, 0.01), 60)
                    link.acknowledge(batch)
                    frames += batch
            assert [int(frame.payload) for frame in frames] == list(range(MESSAGES))
            assert link.counters.connects == 1
            assert link.counters.stale_acknowledgements == 0
    finally:
        broker.kill()


async def test_a_publisher_that_waits_does_not_stop_the_reading_it_waits_for(tmp_path: Path) -> None:
    """The queue is full, and so is the way out: the acknowledgements lie behind frames that nobody takes."""
    broker = Mosquitto(tmp_path, window=0)
    broker.start()
    try:
        async with linked(broker, queue_max=50, outgoing_max=10, outgoing_window=5) as link:
            with Peer(broker.port, "mp/1/gw1/+/receipt") as peer:
                await asyncio.to_thread(peer.publish_all, numbered(2_000))
                answered = 0
                while answered < 2_000:
                    frames = await asyncio.wait_for(link.receive(25, 0.01), 60)
                    receipts = [(frame.device, b"r" + frame.payload) for frame in frames]
                    await asyncio.wait_for(link.publish_receipts(receipts), 60)
                    link.acknowledge(frames)
                    answered += len(frames)
                await asyncio.to_thread(peer.wait_for, lambda messages: len(messages) == 2_000)
                assert [int(payload[1:]) for _, payload, _ in peer.messages] == list(range(2_000))
    finally:
        broker.kill()


async def test_receipts_wait_for_the_broker_within_their_bound(broker: Mosquitto) -> None:
    async with linked(broker, outgoing_max=20) as link:
        broker.stop()
        await until(lambda: not link.connected, "loss of the connection")
        publishing = asyncio.create_task(link.publish_receipts([("m", b"%d" % n) for n in range(50)]))
        await asyncio.sleep(0.2)
        assert not publishing.done()  # 20 are queued, the rest waits
        broker.start()
        with Peer(broker.port, "mp/1/gw1/m/receipt") as peer:
            await asyncio.wait_for(publishing, 60)
            await until(lambda: link.counters.receipts_sent == 50, "acknowledgement of 50 receipts")
            # The first ones may have gone out before the peer was there to listen.
            seen = [int(payload) for _, payload, _ in peer.messages]
            assert seen == sorted(set(seen))


async def test_stopping_releases_a_publisher_that_waits(broker: Mosquitto) -> None:
    link = DeviceLink(settings(broker, outgoing_max=5))
    await link.start()
    broker.stop()
    await until(lambda: not link.connected, "loss of the connection")
    publishing = asyncio.create_task(link.publish_receipts([("m", b"x")] * 10))
    await asyncio.sleep(0.1)
    await asyncio.wait_for(link.stop(), 60)
    with pytest.raises(LinkUnavailable, match="stopped"):
        await publishing


async def test_qos_0_is_dropped_above_the_bound_and_counted(broker: Mosquitto) -> None:
    async with linked(broker, queue_max=10) as link:
        with Peer(broker.port) as peer:
            peer.publish_all(numbered(200), qos=0)
            await until(lambda: link.counters.dropped > 0, "dropped messages")
            peer.publish("mp/1/gw1/m/usage", b"kept")
            frames: list[Frame] = []
            while not frames or frames[-1].payload != b"kept":
                frames += await take(link, 1)
        assert link.counters.dropped + len(frames) == 201
        link.acknowledge(frames)  # QoS 0 has nothing to acknowledge, and nothing breaks


async def test_small_packets_are_sent_at_once(broker: Mosquitto) -> None:
    """Without TCP_NODELAY each way waits for a delayed acknowledgement, 40 ms on Linux."""
    async with linked(broker) as link:
        with Peer(broker.port, "mp/1/gw1/m/receipt") as peer:
            took = []
            for number in range(1, 22):
                started = time.perf_counter()
                peer.publish("mp/1/gw1/m/usage", b"x")
                frames = await take(link, 1)
                link.acknowledge(frames)
                await link.publish_receipt("m", b"answer")
                await asyncio.to_thread(peer.wait_for, lambda messages, n=number: len(messages) == n)
                took.append(time.perf_counter() - started)
            # The first ones are acknowledged at once anyhow. A busy machine is slow as well, but not every time.
            assert min(took[10:]) < 0.03


CHILD = """
import asyncio, sys
from devices.client import DeviceLink, LinkSettings
async def main():
    link = DeviceLink(LinkSettings(gateway="gw1", port=int(sys.argv[1])))
    await link.start()
    done = 0
    while True:
        frames = await link.receive(20, 0.01)
        # "Commit" by printing, acknowledge afterwards: a frame may be printed twice, but none may be missing.
        print(*(frame.payload.decode() for frame in frames), flush=True)
        link.acknowledge(frames)
asyncio.run(main())
"""


def test_killed_again_and_again_without_losing_a_message(broker: Mosquitto) -> None:
    root = Path(__file__).resolve().parents[2]
    committed: set[int] = set()
    with Peer(broker.port, "mp/1/gw1/gateway") as peer:
        sent = 0
        for round_ in range(4):
            child = subprocess.Popen(
                [sys.executable, "-c", CHILD, str(broker.port)],
                stdout=subprocess.PIPE,
                cwd=root,
                env={**os.environ, "PYTHONPATH": str(root)},
            )
            assert child.stdout is not None
            births = sum(payload == b'{"state":"online"}' for _, payload, _ in peer.messages)
            peer.wait_for(lambda m, n=births: sum(p == b'{"state":"online"}' for _, p, _ in m) > n)  # type: ignore[misc]
            more = [("mp/1/gw1/m/usage", b"%d" % n) for n in range(sent, sent + 500)]
            sent += 500
            peer.publish_all(more)
            if round_ < 3:
                committed |= {int(n) for n in child.stdout.readline().split()}
                child.send_signal(signal.SIGKILL)
                peer.wait_for(lambda m: m[-1][1] == b'{"state":"lost"}')  # our will
                committed |= {int(n) for n in child.stdout.read().split()}
            else:
                deadline = time.monotonic() + 60
                while len(committed) < sent and time.monotonic() < deadline:
                    committed |= {int(n) for n in child.stdout.readline().split()}
                child.kill()
            child.stdout.close()
            child.wait(10)
    assert committed == set(range(sent))


async def test_reconnects_wait_a_random_time_below_a_growing_bound(
    broker: Mosquitto, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[tuple[float, float]] = []

    class Jitter:
        def uniform(self, least: float, most: float) -> float:
            drawn.append((least, most))
            return 0.001

    monkeypatch.setattr("random.SystemRandom", Jitter)
    async with linked(broker, backoff_base_s=0.5, backoff_cap_s=3.0) as link:
        broker.stop()
        await until(lambda: len(drawn) >= 6, "six attempts")
        assert drawn[:6] == [(0, 1.0), (0, 2.0), (0, 3.0), (0, 3.0), (0, 3.0), (0, 3.0)]
        broker.start()
        await until(lambda: link.connected, "the new connection")
        assert link.counters.connect_failures >= 5


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
async def test_a_fault_in_the_thread_does_not_pass_for_an_orderly_end(
    broker: Mosquitto, monkeypatch: pytest.MonkeyPatch
) -> None:
    link = DeviceLink(settings(broker))
    await link.start()
    try:

        def faulty(*_: object) -> None:
            raise ZeroDivisionError

        monkeypatch.setattr(network.Network, "_hand_over", faulty)  # every turn ends with it, of either loop
        with pytest.raises(LinkUnavailable, match="unexpectedly"):
            await asyncio.wait_for(link.receive(1, 0), 60)
        with pytest.raises(LinkUnavailable):
            await link.publish_receipt("m", b"x")
    finally:
        await link.stop()
