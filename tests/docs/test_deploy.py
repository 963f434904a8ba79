"""The files in deploy/ name what there is: metrics, paths, users."""

import json
import re
from pathlib import Path

from gateway.cli.main import _parser

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"


def test_the_dashboard_shows_metrics_that_there_are() -> None:
    rows = re.findall(r"^\| `(metergate_[a-z_]+)` \| (\w+) \|", (ROOT / "docs/metrics.md").read_text(), re.MULTILINE)
    known = {name for name, _ in rows}
    known |= {f"{name}_bucket" for name, kind in rows if kind == "histogram"}
    dashboard = json.loads((DEPLOY / "grafana.json").read_text())
    queries = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    queries += [each["query"] for each in dashboard["templating"]["list"]]
    used = {name for query in queries for name in re.findall(r"metergate_[a-z_]+", query)}
    assert len(used) > 25
    assert used - known == set()
    places = [tuple(panel["gridPos"].values()) for panel in dashboard["panels"]]
    for index, (x, y, w, h) in enumerate(places):
        assert x + w <= 24
        for ox, oy, ow, oh in places[:index]:
            assert x >= ox + ow or ox >= x + w or y >= oy + oh or oy >= y + h, "two panels in one place"
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(places)


def test_the_image_copies_what_there_is_and_runs_without_rights() -> None:
    lines = re.sub(r"\\\n", " ", (DEPLOY / "Dockerfile").read_text()).splitlines()
    for line in lines:
        if line.startswith("COPY ") and "--from" not in line:
            for source in line.split()[1:-1]:
                assert (ROOT / source).exists(), source
    users = [line.split()[1] for line in lines if line.startswith("USER ")]
    assert users == ["metergate"]
    last = "\n".join(lines).rpartition("\nFROM ")[2]
    assert "--uid 10402" in last
    (command,) = re.findall(r"^CMD (\[.*\])$", last, re.MULTILINE)
    (health,) = re.findall(r"^HEALTHCHECK .*CMD (\[.*\])$", last, re.MULTILINE)
    assert _parser().parse_args(json.loads(command)).config == Path("/etc/metergate/metergate.toml")
    assert _parser().parse_args(json.loads(health)[1:]).json
    compose = (DEPLOY / "compose.yaml").read_text()
    for service in ("mosquitto:", "metergate:"):
        assert re.search(rf"^  {service}$", compose, re.MULTILINE)
    assert compose.count("cap_drop: [ALL]") == compose.count("no-new-privileges:true") == 2
