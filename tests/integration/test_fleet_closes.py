"""Simulated devices that join a running demo, pay, and close their channels: everybody's money read from the chain."""

import json
import subprocess
import sys

import pytest

from settlement.genesis import PAYOUTS_ADDRESS, TOKEN_ADDRESS
from tests.support.demo_process import ROOT, Child, Demo, running
from tests.support.outsider_chain import ChainView

TOKEN = 10**6
FLEET = ("--devices", "8", "--seed", "77")
FIRMWARE = (sys.executable, "-m", "firmware_sim")


@pytest.mark.slow
def test_a_fleet_gets_back_all_but_what_it_owed() -> None:
    listed = subprocess.run([*FIRMWARE, "addresses", *FLEET], capture_output=True, text=True, check=True, cwd=ROOT)
    members = json.loads(listed.stdout)
    paying = [member for member in members if "payer" in member]
    owners = sorted({member.get("payer", member.get("payee")) for member in members})
    demo = Demo("--devices", "1", "--json", *(word for owner in owners for word in ("--fund", owner)))
    with running(demo):
        demo.broker_answers()
        view = ChainView(demo.url, TOKEN_ADDRESS, "0x" + PAYOUTS_ADDRESS.hex())
        assert [view.tokens(owner) for owner in owners] == [1_000 * TOKEN] * len(owners)
        options = ("--rate", "60", "--duration", "4", "--close-at-end", "--json")
        fleet = Child([*FIRMWARE, "fleet", "--port", str(demo.mqtt_port), *FLEET, *options])
        with running(fleet):
            assert fleet.ended() == 0, fleet.report()
        report = json.loads(fleet.stdout.splitlines()[-1])
        assert (report["closed"], report["stopped"]) == (len(paying), {})
        assert set(report["refused"]) <= {"deposit_pending"}, "an open that was asked again too soon, at most"
        assert view.payouts is not None
        refunds = view.settlement.events.Refunded.get_logs(from_block=0)
        channels = sorted({event.args.channelId for event in refunds})
        assert len(channels) == len(refunds) == len(paying), "one refund a channel"
        assert sum(event.args.amount for event in refunds) == int(report["refunded"])
        states = [view.channel(channel) for channel in channels]
        assert all(balance == claimed for balance, claimed in states)
        paid = [event.args for event in view.payouts.events.Paid.get_logs(from_block=0)]
        earned = sum(event.amount for event in paid if event.payee.lower() in owners)
        claimed = sum(each for _, each in states)
        assert sum(map(view.tokens, owners)) == 1_000 * TOKEN * len(owners) - claimed + earned
        # What was charged and not claimed was netted against what the same owners earned.
        charged = sum(int(amount) for amount in report["charged"].values())
        assert 0 < claimed <= charged
        demo.process.terminate()
        assert demo.result()["conserved"] is True
