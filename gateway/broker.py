"""The demo's own MQTT broker: amqtt on a loopback port, in a process of its own.

    python -m gateway.broker --port 1883

It is pure Python and speaks MQTT 3.1.1 without authentication: right for a demo on one machine, nothing more.
"""

import argparse
import asyncio
import contextlib
import logging
import os
import signal

from amqtt.broker import Broker
from amqtt.contexts import BrokerConfig, ListenerConfig
from amqtt.session import Session


class DemoBroker(Broker):  # type: ignore[misc]  # amqtt has no type information
    """amqtt, but retained messages go only to those who subscribed to them.

    amqtt 0.12 sends every client that connects the retained messages of everybody's subscriptions: a device that
    asked for the offer would get the state of all others first.
    """

    async def _publish_retained_messages_for_subscription(
        self, subscription: tuple[str, int], session: Session
    ) -> None:
        subscribers = self._subscriptions.get(subscription[0], ())
        if any(subscriber.client_id == session.client_id for subscriber, _ in subscribers):
            await super()._publish_retained_messages_for_subscription(subscription, session)


async def run(port: int) -> None:
    """Serve until SIGTERM, or until the parent process is gone."""
    config = BrokerConfig(
        listeners={"default": ListenerConfig(bind=f"127.0.0.1:{port}", max_connections=10_000)},
        plugins={"amqtt.plugins.authentication.AnonymousAuthPlugin": {"allow_anonymous": True}},
    )
    broker = DemoBroker(config)
    await broker.start()
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    asyncio.get_running_loop().add_signal_handler(signal.SIGINT, lambda: None)
    parent = os.getppid()
    while not stop.is_set() and os.getppid() == parent:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), 1.0)
    await broker.shutdown()


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(prog="python -m gateway.broker", description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    options = parser.parse_args()
    logging.basicConfig(level=logging.CRITICAL)
    logging.disable(logging.ERROR)  # amqtt logs a client that just goes away as an error, with its traceback
    asyncio.run(run(options.port))


if __name__ == "__main__":
    main()
