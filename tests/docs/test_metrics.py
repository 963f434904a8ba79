"""docs/metrics.md and docs/refusals.md say what the code does."""

import re
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from channels.refusals import Refusal
from gateway.web.metrics import Metrics
from gateway.web.reasons import BY_NAME, REASONS, cause_of
from tests.support.gateway_world import World
from tests.support.web_site import WebSite

DOCS = Path(__file__).resolve().parents[2] / "docs"


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[WebSite]:
    """A demo's site."""
    made = WebSite(World(tmp_path / "world"))
    await made.start()
    yield made
    await made.end()


async def test_every_metric_is_documented_and_every_documented_one_is_there(site: WebSite) -> None:
    text = (DOCS / "metrics.md").read_text(encoding="utf-8")
    told = {
        name: (kind, words)
        for name, kind, words in re.findall(r"^\| `(metergate_\w+)` \| (\w+) \|.*\| (.+) \|$", text, re.MULTILINE)
    }
    there = {
        metric.name + {"counter": "_total", "info": "_info"}.get(metric.type, ""): (metric.type, metric.documentation)
        for metric in Metrics(site.desk).collect()
    }
    assert told == there
    answer = (await site.client().get("/metrics")).text
    names = set(re.findall(r"^# TYPE (\w+) ", answer, re.MULTILINE))
    assert names == set(there)
    assert all(name.startswith("metergate_") for name in names)
    assert 'metergate_refusals_total{reason="register_jump"} 0.0' in answer


async def test_metrics_follow_what_happens(site: WebSite) -> None:
    payer = await site.world.opened()
    site.desk.tick()
    for _ in range(3):
        await site.world.pay(payer, 100)
    site.desk.tick()
    text = (await site.client().get("/metrics")).text
    values = dict(re.findall(r"^(metergate_\S+) (\S+)$", text, re.MULTILINE))
    assert float(values["metergate_payments_total"]) == 3
    assert float(values["metergate_exposure_base_units"]) == site.world.channel(payer).unclaimed
    assert float(values["metergate_receipt_seconds_count"]) == 4
    assert float(values['metergate_gas_coins_wei{key="treasury"}']) > 0
    assert values['metergate_receipt_seconds_bucket{le="+Inf"}'] == values["metergate_receipt_seconds_count"]


def test_the_words_about_refusals_are_those_of_the_page() -> None:
    page = (DOCS / "refusals.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (\d+) \| `(\w+)` \| (\w*) ?\| (.+) \| (.+) \|$", page, re.MULTILINE)
    told = {int(number): (name, transient == "yes", cause, device) for number, name, transient, cause, device in rows}
    assert told == {
        int(refusal): (refusal.wire_name, refusal.transient, REASONS[refusal].cause, REASONS[refusal].device)
        for refusal in Refusal
    }
    for refusal in Refusal:
        assert BY_NAME[refusal.wire_name].operator.endswith(".")
        assert cause_of(refusal.wire_name).endswith(".")
