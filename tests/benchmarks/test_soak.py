"""The soak: what counts as growth, what must be conserved, and a short run of the real thing."""

import pytest

from benchmarks import soak
from benchmarks.frame import BenchmarkFailed
from benchmarks.soak import Sample, growth


def _sample(memory_mb: float = 80, queue: int = 0, p99_ms: float = 20) -> Sample:
    return Sample(memory_mb, queue, p99_ms, payments=0, settlements=0)


@pytest.mark.parametrize(
    ("samples", "found"),
    [
        ([_sample()] * 2, []),
        ([_sample()] * 60, []),
        ([_sample(memory_mb=80 + minute / 10) for minute in range(60)], []),
        ([_sample(memory_mb=80 + minute) for minute in range(60)], ["memory"]),
        ([_sample(memory_mb=80 + minute) for minute in range(3)], []),
        ([_sample(memory_mb=minute * 9) for minute in range(3)], ["memory"]),
        ([_sample()] * 40 + [_sample(queue=600)] * 20, ["queue"]),
        ([_sample()] * 59 + [_sample(queue=600)], []),
        ([_sample()] * 40 + [_sample(p99_ms=200)] * 20, ["p99"]),
        ([_sample(p99_ms=900)] * 20 + [_sample()] * 40, []),
        ([_sample()] * 40 + [_sample(200, 1_000, 500)] * 20, ["memory", "queue", "p99"]),
    ],
)
def test_growth_is_from_the_middle_third_to_the_last(samples: list[Sample], found: list[str]) -> None:
    assert [text.split()[0] for text in growth(samples)] == found


def test_a_short_soak_settles_and_conserves() -> None:
    said: list[str] = []
    samples, figures = soak.soak(2, said.append, minute_s=4.0)
    assert len(samples) == len(said) == 2
    assert figures["settlements"] >= 1
    assert int(figures["earned"]) > 0, "the fleet has earners"
    assert samples[0].payments < samples[1].payments <= figures["payments"]


def test_a_soak_whose_devices_say_otherwise_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    figures = {"faults": [], "charged": "5", "claimed": "3", "offset": "2", "earned": "4", "paid_out": "1", "fees": "1"}
    soak._check(figures, 5, 4)
    for changed in ({"faults": ["x"]}, {"charged": "6"}, {"earned": "5"}, {"claimed": "2"}, {"paid_out": "2"}):
        with pytest.raises(BenchmarkFailed):
            soak._check(figures | changed, 5, 4)
