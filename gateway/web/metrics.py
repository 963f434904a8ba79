"""Metrics for Prometheus, read from the desk when they are asked for: nothing is counted twice. See docs/metrics.md."""

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from channels.refusals import Refusal
from gateway.web.desk import Desk
from gateway.web.series import BOUNDS_S, Histogram

# Every third or so of the histogram's bins: enough for quantiles over time.
_BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_NEAREST = {bound: min(BOUNDS_S, key=lambda each: abs(each - bound)) for bound in _BUCKETS}


class Metrics(Collector):
    """The metrics of one gateway. Amounts are token base units, coins wei, as floating point: for charts only."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(self)

    def text(self) -> bytes:
        """Return all of them in Prometheus's text format."""
        return generate_latest(self._registry)

    def describe(self) -> Iterator[Metric]:
        """Name nothing before it is asked for."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics as they stand."""
        yield from self._gateway()
        yield from self._pipeline()
        yield from self._money()
        yield from self._chain()

    def _gateway(self) -> Iterator[Metric]:
        desk = self._desk
        info = InfoMetricFamily("metergate_build", "Version and gateway id.")
        info.add_metric([], {"version": desk.version, "gateway": desk.gateway.config.gateway})
        yield info
        yield _gauge("metergate_devices", "Devices known.", len(desk.index.names))
        yield _gauge("metergate_devices_online", "Devices heard of within five minutes.", len(desk.activity.online))
        yield _gauge("metergate_channels", "Channels known, closed ones too.", len(desk.gateway.ledger.channels))
        yield _gauge("metergate_streams", "Open event streams of the dashboard.", desk.hub.listeners)
        problems = GaugeMetricFamily("metergate_problem", "1 for each problem of Repairs.", labels=["code"])
        for each in desk.repairs:
            problems.add_metric([each.code], 1)
        yield problems

    def _pipeline(self) -> Iterator[Metric]:
        desk, counters, totals = self._desk, self._desk.gateway.pipeline.counters, self._desk.gateway.ledger.totals
        yield _counter("metergate_payments", "Accepted paying readings, over all time.", totals.payments)
        yield _counter("metergate_earnings", "Accepted earning readings, over all time.", totals.earnings)
        yield _counter(
            "metergate_duplicates", "Messages that were accepted before, since the start.", counters.duplicates
        )
        refusals = CounterMetricFamily("metergate_refusals", "Refused messages since the start.", labels=["reason"])
        for refusal in Refusal:
            refusals.add_metric([refusal.wire_name], counters.refused[refusal.wire_name])
        yield refusals
        yield _histogram("metergate_receipt_seconds", "From a message's arrival to its receipt.", desk.activity.latency)
        yield _histogram("metergate_commit_seconds", "A batch's wait for the disk.", desk.activity.commits)
        link = desk.gateway.link
        yield _gauge("metergate_queue_depth", "Messages that wait for the pipeline.", getattr(link, "queued", 0))
        yield _gauge("metergate_broker_connected", "1 while the broker is connected.", int(link.connected))
        journal = desk.gateway.books.journal
        yield _gauge("metergate_journal_bytes", "Size of the journal's file.", journal.path.stat().st_size)
        yield _counter("metergate_commits", "Commits in the journal.", journal.number)

    def _money(self) -> Iterator[Metric]:
        desk, sums = self._desk, self._desk.index.sums
        ledger = desk.gateway.ledger
        yield _counter("metergate_charged_base_units", "What readings came to.", sums["charged"])
        yield _counter("metergate_earned_base_units", "What earners' readings came to, gross.", sums["earned"])
        yield _counter("metergate_offset_base_units", "Settled by netting, without the chain.", sums["offset"])
        yield _gauge("metergate_claimed_base_units", "Claimed on the chain.", sums["claimed"])
        yield _gauge("metergate_settled_base_units", "Moved from the contract to lanes.", ledger.totals.settled)
        yield _gauge("metergate_paid_base_units", "Paid out to earners.", desk.index.paid)
        yield _gauge("metergate_exposure_base_units", "Owed and neither claimed nor offset yet.", sums["unclaimed"])
        yield _gauge("metergate_payable_base_units", "Due to earners and not paid yet.", desk.index.payable)
        yield _counter("metergate_settlements", "Settlement cycles that ended.", ledger.totals.settlements)
        yield _gauge("metergate_rows_aside", "Rows of settlements that are set aside.", len(ledger.aside))
        backup = desk.last_backup()
        yield _gauge("metergate_backup_timestamp_seconds", "When the last backup was made; 0: never.", backup or 0)

    def _chain(self) -> Iterator[Metric]:
        desk, gateway = self._desk, self._desk.gateway
        coins = GaugeMetricFamily("metergate_gas_coins_wei", "Coins for gas of each sending key.", labels=["key"])
        low = GaugeMetricFamily("metergate_gas_low_wei", "Below this a key is refilled.", labels=["key"])
        for key in gateway.gas.keys:
            coins.add_metric([key.name], key.coins)
            low.add_metric([key.name], key.marks.low)
        yield coins
        yield low
        lanes = GaugeMetricFamily("metergate_lane_outstanding", "Transactions under way, by key.", labels=["key"])
        counts = dict.fromkeys(desk.key_names.values(), 0)
        for each in gateway.ledger.transactions.values():
            counts[desk.blocks.name(each.sender)] = counts.get(desk.blocks.name(each.sender), 0) + 1
        for name, count in counts.items():
            lanes.add_metric([name], count)
        yield lanes
        head, silence = gateway.watcher.head, gateway.watcher.silence_s
        yield _gauge("metergate_chain_block", "The latest block seen.", 0 if head is None else head.number)
        yield _gauge(
            "metergate_chain_final_block", "The last block whose events are in.", max(gateway.watcher.block, 0)
        )
        yield _gauge("metergate_chain_lag_seconds", "Since the chain last showed a block.", silence)
        yield _gauge(
            "metergate_chain_stale", "1 while readings are refused for its silence.", int(gateway.terms.chain_stale)
        )
        yield _gauge(
            "metergate_gas_used", "Gas that own transactions used, over all time.", gateway.ledger.totals.gas_used
        )
        yield _counter("metergate_reorgs", "Reorganisations that undid something.", gateway.ledger.totals.reorgs)
        if desk.blocks.chain is not None:
            yield _counter(
                "metergate_layer_transactions", "Transactions that the embedded layer ran.", desk.blocks.transactions
            )
            yield _counter("metergate_layer_reexecuted", "Of those, run again for a conflict.", desk.blocks.reexecuted)
            yield _gauge("metergate_layer_speed_up", "Work over elapsed time of its blocks.", desk.blocks.speed_up or 0)


def _gauge(name: str, words: str, value: float) -> Metric:
    return GaugeMetricFamily(name, words, value=value)


def _counter(name: str, words: str, value: float) -> Metric:
    return CounterMetricFamily(name, words, value=value)


def _histogram(name: str, words: str, histogram: Histogram) -> Metric:
    buckets: list[tuple[str, float]] = []
    for bound in _BUCKETS:
        upto = BOUNDS_S.index(_NEAREST[bound])
        buckets.append((str(_NEAREST[bound]), float(sum(histogram.counts[: upto + 1]))))
    buckets.append(("+Inf", float(sum(histogram.counts))))
    return HistogramMetricFamily(name, words, buckets=buckets, sum_value=histogram.sum_s)
