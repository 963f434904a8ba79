"""The MQTT client against a real broker."""

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from devices.client import DeviceLink, Frame, LinkSettings, LinkUnavailable, MqttVersion
from tests.support.mosquitto import Mosquitto, free_port
from tests.support.mqtt_peer import Peer

BOTH = pytest.mark.parametrize("version", [MqttVersion.V311, MqttVersion.V5], ids=["3.1.1", "5"])
WAIT_S = 60.0
FAST_LOOP = True  # set by the fixture
pytestmark = pytest.mark.usefixtures("loop_kind")


def settings(broker: Mosquitto, **changes: Any) -> LinkSettings:
    given = {"gateway": "gw1", "port": broker.port, "backoff_base_s": 0.05, "fast_loop": FAST_LOOP}
    return LinkSettings(**given | changes)


@asynccontextmanager
async def linked(broker: Mosquitto, **changes: Any) -> AsyncIterator[DeviceLink]:
    link = DeviceLink(settings(broker, **changes))
    await link.start()
    try:
        yield link
    finally:
        await link.stop()


async def until(condition: Callable[[], bool], what: str) -> None:
    deadline = asyncio.get_running_loop().time() + WAIT_S
    while not condition():
        assert asyncio.get_running_loop().time() < deadline, f"{what}: not in {WAIT_S} s"
        await asyncio.sleep(0.01)


async def take(link: DeviceLink, count: int) -> list[Frame]:
    frames: list[Frame] = []
    while len(frames) < count:
        frames += await asyncio.wait_for(link.receive(count - len(frames), 0.01), WAIT_S)
    return frames


async def nothing_comes(link: DeviceLink, for_s: float = 0.4) -> bool:
    try:
        return await asyncio.wait_for(link.receive(1, 0), for_s) == []
    except TimeoutError:
        return True


@BOTH
async def test_frames_in_receipts_out(broker: Mosquitto, version: MqttVersion) -> None:
    async with linked(broker, protocol=version) as link:
        assert link.connected
        with Peer(broker.port, "mp/1/gw1/+/receipt") as peer:
            for leaf in ("usage", "earn", "open", "state"):
                peer.publish(f"mp/1/gw1/meter-1/{leaf}", leaf.encode())
            frames = await take(link, 4)
            assert [(f.device, f.leaf, f.payload, f.retained) for f in frames] == [
                ("meter-1", leaf, leaf.encode(), False) for leaf in ("usage", "earn", "open", "state")
            ]
            await link.publish_receipts([(f.device, b"answer to " + f.payload) for f in frames])
            await link.publish_receipt("meter-2", b"hello")
            link.acknowledge(frames)
            peer.wait_for(lambda messages: len(messages) == 5)
            assert [(topic, payload) for topic, payload, _ in peer.messages] == [
                *(("mp/1/gw1/meter-1/receipt", b"answer to " + f.payload) for f in frames),
                ("mp/1/gw1/meter-2/receipt", b"hello"),
            ]
        await until(lambda: link.counters.receipts_sent == 5, "PUBACKs of the receipts")
        assert (link.counters.frames, link.counters.connects, link.counters.receipts_refused) == (4, 1, 0)


@BOTH
async def test_what_was_not_acknowledged_comes_again(broker: Mosquitto, version: MqttVersion) -> None:
    with Peer(broker.port) as peer:
        async with linked(broker, protocol=version) as link:
            peer.publish_all([("mp/1/gw1/m/usage", str(n).encode()) for n in range(6)])
            frames = await take(link, 6)
            link.acknowledge(frames[:2])
            link.acknowledge(frames[4:5])
        async with linked(broker, protocol=version) as link:
            again = await take(link, 3)
            assert [frame.payload for frame in again] == [b"2", b"3", b"5"]
            # The same packet ids, but of the connection before: not acknowledged by mistake.
            link.acknowledge([frame._replace(token=frame.token._replace(connection=0)) for frame in again])
            await until(lambda: link.counters.stale_acknowledgements == 3, "stale acknowledgements")
        async with linked(broker, protocol=version) as link:
            assert [frame.payload for frame in await take(link, 3)] == [b"2", b"3", b"5"]


@BOTH
async def test_messages_wait_in_the_broker_while_the_gateway_is_away(broker: Mosquitto, version: MqttVersion) -> None:
    async with linked(broker, protocol=version):
        pass
    with Peer(broker.port) as peer:
        peer.publish_all([("mp/1/gw1/m/usage", str(n).encode()) for n in range(50)])
    async with linked(broker, protocol=version) as link:
        payloads: list[int] = []
        while len(payloads) < 50:  # the broker leaves 20 unacknowledged at most
            frames = await take(link, 1)
            link.acknowledge(frames)
            payloads += [int(frame.payload) for frame in frames]
        assert payloads == list(range(50))
        assert await nothing_comes(link)


@BOTH
async def test_the_broker_restarts(broker: Mosquitto, version: MqttVersion) -> None:
    async with linked(broker, protocol=version) as link:
        link.publish_offer(b"first offer")
        with Peer(broker.port) as peer:
            peer.publish("mp/1/gw1/m/usage", b"unanswered")
        old = await take(link, 1)
        broker.stop()
        await until(lambda: not link.connected, "loss of the connection")
        link.publish_offer(b"second offer")
        waiting = asyncio.create_task(link.publish_receipt("m", b"made during the outage"))
        (broker.directory / "mosquitto.db").unlink()  # it forgets sessions and retained messages
        broker.start()
        with Peer(broker.port, "mp/1/gw1/m/receipt", "mp/1/gw1/offer", "mp/1/gw1/gateway") as peer:
            await until(lambda: link.connected, "the new connection")
            await waiting
            await asyncio.to_thread(peer.wait_for, lambda messages: len(messages) >= 3)
            said = {topic: payload for topic, payload, _ in peer.messages}
            assert said["mp/1/gw1/m/receipt"] == b"made during the outage"
            assert said["mp/1/gw1/offer"] == b"second offer"
            assert said["mp/1/gw1/gateway"] == b'{"state":"online"}'
            peer.publish("mp/1/gw1/m/usage", b"new")
            fresh = await take(link, 1)
            assert fresh[0].payload == b"new"
            assert fresh[0].token.connection > old[0].token.connection
            link.acknowledge(old)
            await until(lambda: link.counters.stale_acknowledgements == 1, "the stale acknowledgement")
        assert link.counters.connects == 2


async def test_the_offer_is_retained(broker: Mosquitto) -> None:
    async with linked(broker) as link:
        link.publish_offer(b"one")
        link.publish_offer(b"two")
        with Peer(broker.port, "mp/1/gw1/offer") as early:
            await asyncio.to_thread(early.wait_for, lambda m: any(payload == b"two" for _, payload, _ in m))
        with Peer(broker.port, "mp/1/gw1/offer") as late:
            await asyncio.to_thread(late.wait_for, lambda messages: len(messages) == 1)
            assert late.messages == [("mp/1/gw1/offer", b"two", True)]


async def test_birth_and_goodbye(broker: Mosquitto) -> None:
    with Peer(broker.port, "mp/1/gw1/gateway") as peer:
        async with linked(broker):
            await asyncio.to_thread(peer.wait_for, lambda messages: len(messages) == 1)
        await asyncio.to_thread(peer.wait_for, lambda messages: len(messages) == 2)
        assert [payload for _, payload, _ in peer.messages] == [b'{"state":"online"}', b'{"state":"offline"}']
    with Peer(broker.port, "mp/1/gw1/gateway") as late:
        await asyncio.to_thread(late.wait_for, lambda messages: len(messages) == 1)
        assert late.messages == [("mp/1/gw1/gateway", b'{"state":"offline"}', True)]


async def test_other_topics_are_counted_and_out_of_the_way(broker: Mosquitto) -> None:
    async with linked(broker) as link:
        with Peer(broker.port) as peer:
            # More than the broker leaves unacknowledged: they must not take the window away from others.
            peer.publish_all([("mp/1/gw1/no id/usage", b"x")] * 30 + [("mp/1/gw1/m/receipt", b"not ours")])
            peer.publish("mp/1/gw1/m/usage", b"good")
            frames = await take(link, 1)
        assert frames[0].payload == b"good"
        assert link.counters.wrong_topic == 30
        assert link.counters.frames == 1


async def test_payloads_that_are_too_large_or_empty_arrive(broker: Mosquitto) -> None:
    async with linked(broker) as link:
        with Peer(broker.port) as peer:
            peer.publish("mp/1/gw1/m/usage", b"x" * 100_000)
            peer.publish("mp/1/gw1/m/usage", b"")
            assert [len(frame.payload) for frame in await take(link, 2)] == [100_000, 0]


async def test_a_batch_ends_at_its_limit_or_its_window(broker: Mosquitto) -> None:
    async with linked(broker) as link:
        with Peer(broker.port) as peer:
            peer.publish_all([("mp/1/gw1/m/usage", b"x")] * 10)
            await until(lambda: link.queued == 10, "ten frames")
            assert len(await link.receive(4, 5)) == 4
            before = asyncio.get_running_loop().time()
            assert len(await link.receive(100, 0.2)) == 6
            assert 0.15 < asyncio.get_running_loop().time() - before < WAIT_S
            waiting = asyncio.create_task(link.receive(100, 0))
            await asyncio.sleep(0.05)
            with pytest.raises(RuntimeError, match="one task"):
                await link.receive(1, 0)
            peer.publish("mp/1/gw1/m/usage", b"x")
            assert len(await waiting) == 1


async def test_stopping_ends_what_waits(broker: Mosquitto) -> None:
    link = DeviceLink(settings(broker))
    await link.start()
    waiting = asyncio.create_task(link.receive(1, 0))
    await asyncio.sleep(0.05)
    await link.stop()
    assert await asyncio.wait_for(waiting, WAIT_S) == []
    assert await link.receive(1, 0) == []
    assert not link.connected
    with pytest.raises(LinkUnavailable, match="stopped"):
        await link.publish_receipt("m", b"too late")
    await link.stop()


# Start-up


async def refused(link: DeviceLink) -> str:
    with pytest.raises(LinkUnavailable) as error:
        await asyncio.wait_for(link.start(), WAIT_S)
    text = str(error.value)
    assert "\n" not in text
    assert await link.receive(1, 0) == []
    return text


async def test_nobody_listens() -> None:
    port = free_port()
    text = await refused(DeviceLink(LinkSettings(gateway="gw1", port=port)))
    assert text.startswith(f"cannot reach the MQTT broker at 127.0.0.1:{port}: ")
    assert "is it running" in text


async def test_a_host_that_is_none() -> None:
    text = await refused(DeviceLink(LinkSettings(gateway="gw1", host="no-such-host.invalid")))
    assert text.startswith("cannot reach the MQTT broker at no-such-host.invalid:1883: ")


async def test_somebody_else_listens() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        link = DeviceLink(LinkSettings(gateway="gw1", port=port, connect_timeout_s=0.3))
        assert await refused(link) == f"the MQTT broker at 127.0.0.1:{port} does not answer"


@BOTH
async def test_a_wrong_password(tmp_path: Path, version: MqttVersion) -> None:
    broker = Mosquitto(tmp_path, anonymous=False)
    broker.start()
    try:
        text = await refused(DeviceLink(settings(broker, protocol=version, username="gw1", password="wrong")))
        assert text.startswith(f"the MQTT broker at 127.0.0.1:{broker.port} refuses us: Not authorized")
        assert "password" in text
    finally:
        broker.kill()


async def test_subscriptions_that_are_not_allowed(tmp_path: Path) -> None:
    """mosquitto says yes to every subscription; another broker need not."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(WAIT_S)

        def refuse_subscriptions() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(4096)
                connection.sendall(b"\x20\x02\x00\x00")  # CONNACK: accepted
                packet = connection.recv(4096)
                assert packet[0] == 0x82  # SUBSCRIBE
                connection.sendall(b"\x90\x06" + packet[2:4] + b"\x01\x80\x01\x01")  # SUBACK: the second failed
                connection.recv(4096)

        port = server.getsockname()[1]
        serving = asyncio.create_task(asyncio.to_thread(refuse_subscriptions))
        text = await refused(DeviceLink(LinkSettings(gateway="gw1", port=port)))
        await serving
        assert "refuses our subscriptions" in text
        assert "mp/1/gw1/+/usage" in text


async def test_a_gateway_id_that_is_none() -> None:
    with pytest.raises(ValueError, match="gateway id"):
        DeviceLink(LinkSettings(gateway="gw/1"))


async def test_a_cancelled_start_leaves_no_thread() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        link = DeviceLink(LinkSettings(gateway="gw1", port=silent.getsockname()[1], connect_timeout_s=0.5))
        starting = asyncio.create_task(link.start())
        await asyncio.sleep(0.1)
        starting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await starting
        assert await link.receive(1, 0) == []
