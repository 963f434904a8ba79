"""The suite `execution`: its loads are what they say, and what it would report is checked. No load here."""

import json
from collections.abc import Iterator
from dataclasses import replace

import pytest
from parallel_evm import Chain

from benchmarks import execution, execution_loads
from benchmarks.execution import _pairs, _rates, _rounds
from benchmarks.execution_child import PAY_EACH, PAYER
from benchmarks.execution_loads import CHAIN_ID, account, claims, signed, transfers
from benchmarks.execution_runs import BATCH_BYTES, bare_recoveries, batches, on_chain
from benchmarks.frame import BenchmarkFailed
from channels.digests import keccak


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(execution_loads, "TRANSFERS", 40)
    monkeypatch.setattr(execution_loads, "CLAIMS", 4)  # one of each lane: nothing to repeat, whatever the timing
    monkeypatch.setattr(execution_loads, "ROWS", 16)
    monkeypatch.setattr(execution, "PAIRS", 2)
    for made in (transfers, claims):
        made.cache_clear()
    yield
    for made in (transfers, claims):
        made.cache_clear()


@pytest.mark.parametrize("name", execution.TRANSFERS)
def test_transfers_come_to_the_same_root_on_any_number_of_threads(name: str) -> None:
    load = transfers(name)
    runs = [on_chain(load, threads) for threads in (1, 2, 4)]
    assert len({run.root for run in runs}) == 1
    assert all(len(run.gas) == 40 and run.gas == runs[0].gas for run in runs)


def test_json_batches_carry_the_same_transactions() -> None:
    load = transfers("transfers_free")
    assert on_chain(load, 2, bodies=batches(load)).root == on_chain(load, 2).root
    big = replace(load, raws=tuple(bytes(BATCH_BYTES // 3) for _ in range(4)))
    assert [len(json.loads(body)) for body in batches(big)] == [1, 1, 1, 1]


def test_lanes_repeat_nothing_and_priming_changes_no_result() -> None:
    load = claims()
    plain, primed = on_chain(load, 2), on_chain(load, 2, primed=True)
    assert plain.stats.reexecuted == plain.stats.aborted == 0
    assert (plain.root, plain.gas) == (primed.root, primed.gas)
    assert len(load.verified) == 4 * 16
    assert bare_recoveries(load, 2) > 0


def test_a_load_that_fails_is_no_figure() -> None:
    load = transfers("transfers_chain")
    with pytest.raises(BenchmarkFailed, match="failed"):
        on_chain(replace(load, raws=(load.raws[1],)), 1)
    with pytest.raises(BenchmarkFailed, match="refused"):
        on_chain(replace(load, raws=(b"\x02",)), 1)
    with pytest.raises(BenchmarkFailed, match="is not its signer's"):
        bare_recoveries(replace(claims(), verified=((keccak(b""), claims().verified[0][1], bytes(20)),) * 16), 1)


def test_rows_of_a_case() -> None:
    rows = list(_rates("x", _pairs(transfers("transfers_free"))))
    assert [row.name for row in rows] == ["x", "x_median", "x_execution_alone", "x_cpu_us"]
    assert {row.against for row in rows} == {"sequential"}


def test_rounds_are_bounded_in_number_and_time() -> None:
    assert list(_rounds(3, 60.0)) == [0, 1, 2]
    assert list(_rounds(9, 0.0)) == [0, 1]


def test_the_paying_contract_makes_one_account_for_each_number() -> None:
    key, sender = account(0)
    funded = {"balance": hex(10**20)}
    accounts = {f"0x{sender.hex()}": funded, f"0x{PAYER.hex()}": funded | {"code": f"0x{PAY_EACH.hex()}"}}
    chain = Chain(chain_id=CHAIN_ID, genesis=json.dumps({"alloc": accounts}))
    chain.send_raw_transaction(
        signed(key, 0, PAYER, 10_000_000, (1 << 100).to_bytes(32, "big") + (5).to_bytes(32, "big"))
    )
    chain.produce_block()
    assert [chain.balance(((1 << 100) + n).to_bytes(20, "big")) for n in range(-1, 6)] == [0, 1, 1, 1, 1, 1, 0]
