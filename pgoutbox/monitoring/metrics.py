"""The relay's metrics for Prometheus: what each is called, and how it is read off the monitor.

The first three are wal-listener's, by name, labels and help (``internal/config/metrics.go``). All
others have the relay's name as their first label, since several relays share a Prometheus.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from itertools import accumulate
from typing import TYPE_CHECKING, Literal

from pgoutbox import __version__
from pgoutbox.errors import ConfigError
from pgoutbox.monitoring.monitor import Lead, Monitor, Role
from pgoutbox.monitoring.web import Answer, Route

if TYPE_CHECKING:  # an extra
    from prometheus_client.metrics_core import Metric as Family


APP = "wal-listener"  # a label's value that dashboards and alerts select

Sample = tuple[tuple[str, ...], float]  # values of the labels, and the value


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric; ``read`` returns its samples."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    help: str
    labels: tuple[str, ...]
    read: Callable[[Monitor], Iterable[Sample]]


def _one(name: str, help_text: str, read: Callable[[Monitor], float]) -> Metric:
    """Return a metric that every relay has; one named _total is a counter."""
    kind: Literal["counter", "gauge"] = "counter" if name.endswith("_total") else "gauge"
    return Metric(
        name, kind, help_text, ("relay",), lambda monitor: [((monitor.relay,), read(monitor))]
    )


def _of_lead(name: str, help_text: str, read: Callable[[Lead], float | None]) -> Metric:
    """Return a metric of the leader; a standby has none."""

    def samples(monitor: Monitor) -> Iterator[Sample]:
        value = read(monitor.lead) if monitor.lead is not None else None
        if value is not None:
            yield (monitor.relay,), value

    return Metric(name, "gauge", help_text, ("relay",), samples)


def _of_others(name: str, help_text: str, read: Callable[[Lead], Mapping[str, float]]) -> Metric:
    """Return a metric that the leader has of each other relay, whose name is the label's value."""

    def samples(monitor: Monitor) -> Iterator[Sample]:
        for relay, value in (read(monitor.lead) if monitor.lead is not None else {}).items():
            yield (relay,), value

    return Metric(name, "gauge", help_text, ("relay",), samples)


def _by_server(name: str, help_text: str, read: Callable[[Monitor], tuple[float, float]]) -> Metric:
    """Return a metric of PostgreSQL and of NATS."""
    kind: Literal["counter", "gauge"] = "counter" if name.endswith("_total") else "gauge"

    def samples(monitor: Monitor) -> Iterator[Sample]:
        for server, value in zip(("postgresql", "nats"), read(monitor), strict=True):
            yield (monitor.relay, server), value

    return Metric(name, kind, help_text, ("relay", "server"), samples)


METRICS = (
    Metric(
        "published_events_total",
        "counter",
        "The total number of published events",
        ("app", "subject", "table"),
        lambda monitor: [((APP, *key), count) for key, count in monitor.published.items()],
    ),
    Metric(
        "problematic_events_total",
        "counter",
        "The total number of skipped problematic events",
        ("app", "kind"),
        lambda monitor: [((APP, "publish"), monitor.parked)],
    ),
    Metric(
        "filter_skipped_events_total",
        "counter",
        "The total number of skipped events",
        ("app", "table"),
        lambda monitor: [((APP, table), count) for table, count in monitor.skipped.items()],
    ),
    _of_lead(
        "pgoutbox_backlog_events",
        "Unsent events, as last counted; not counted beyond 1,000,000",
        lambda lead: lead.backlog,
    ),
    _of_lead(
        "pgoutbox_oldest_unsent_seconds",
        "Time since the oldest unsent event was committed; 0 when all are sent",
        lambda lead: lead.clock.age(lead.oldest),
    ),
    _of_lead(
        "pgoutbox_last_success_timestamp_seconds",
        "When events were last confirmed, or looked for and there were none; seconds since 1970",
        lambda lead: lead.last_pass,
    ),
    _of_lead(
        "pgoutbox_gaps",
        "Positions passed before their transaction was seen, and what lies between many of them",
        lambda lead: lead.gaps,
    ),
    _of_lead(
        "pgoutbox_parked_events",
        "Events set aside because NATS can never take them",
        lambda lead: lead.parked,
    ),
    _of_lead(
        "pgoutbox_problem_tables",
        "Captured tables with a problem that the relay can't mend, as pgoutbox status shows it",
        lambda lead: lead.problem_tables,
    ),
    _of_lead(
        "pgoutbox_outbox_bytes",
        "What the outbox takes on PostgreSQL's disk",
        lambda lead: lead.outbox_bytes,
    ),
    _of_others(
        "pgoutbox_relay_backlog_events",
        "Unsent events of another relay, the label's, as counted here; no further than 100,000",
        lambda lead: lead.others_backlog,
    ),
    _of_others(
        "pgoutbox_relay_oldest_unsent_seconds",
        "Time since the oldest unsent event of another relay was committed; 0 when all are sent",
        lambda lead: {name: lead.clock.age(at) for name, at in lead.others_oldest.items()},
    ),
    Metric(
        "pgoutbox_snapshot_rows",
        "gauge",
        "Rows that the table's snapshot has sent; of one that has ended until the next begins",
        ("relay", "table"),
        lambda monitor: [
            ((monitor.relay, table), rows)
            for table, rows in (monitor.lead.snapshot_rows if monitor.lead else {}).items()
        ],
    ),
    _one(
        "pgoutbox_events_published_total",
        "Events that the stream has confirmed",
        lambda monitor: monitor.sent,
    ),
    _one("pgoutbox_batches_total", "Batches published", lambda monitor: monitor.batches),
    Metric(
        "pgoutbox_publish_latency_seconds",
        "histogram",
        "From commit to confirmation; each event counts with the oldest of its batch",
        ("relay",),
        lambda _: [],  # see _families
    ),
    _one("pgoutbox_leader", "Whether this relay leads", lambda m: m.is_leading),
    _of_lead(
        "pgoutbox_paused",
        "Whether somebody has paused this relay, so that its events wait",
        lambda lead: lead.is_paused,
    ),
    _one("pgoutbox_standby", "Whether this relay stands by", lambda m: m.role is Role.STANDBY),
    _by_server(
        "pgoutbox_outage",
        "Whether the server fails at present, and the relay tries again; a standby needs no NATS",
        lambda m: (m.postgresql.is_out, m.nats.is_out and m.role is not Role.STANDBY),
    ),
    _by_server(
        "pgoutbox_outages_total",
        "Outages that have begun",
        lambda m: (m.postgresql.outages, m.nats.outages),
    ),
    _by_server(
        "pgoutbox_reconnects_total",
        "Connections made after the first",
        lambda m: (max(0, m.postgresql.connections - 1), max(0, m.nats.connections - 1)),
    ),
    _one(
        "pgoutbox_id_conflicts_total",
        "Refusals of an event because another publisher's message in the stream has its id",
        lambda monitor: monitor.id_conflicts,
    ),
    _one(
        "pgoutbox_resent_after_loss_total",
        "Events that were sent again after the stream had lost messages",
        lambda monitor: monitor.resent,
    ),
    Metric(
        "pgoutbox_build_info",
        "gauge",
        "Always 1",
        ("relay", "version"),
        lambda monitor: [((monitor.relay, __version__), 1)],
    ),
)


def route(monitor: Monitor) -> Route:
    """Return what answers to a scrape: the metrics, and those of the process.

    Raises:
        ConfigError: the package that writes their format isn't installed.

    """
    try:
        from prometheus_client import CollectorRegistry, ProcessCollector
        from prometheus_client.exposition import choose_encoder
    except ImportError as error:
        raise ConfigError(
            "metrics need the package prometheus-client, which isn't installed",
            hint="Run: pip install 'pgoutbox[metrics]', or give no address for metrics.",
        ) from error

    class Collector:
        def collect(self) -> Iterator[Family]:
            return _families(monitor)

    registry = CollectorRegistry()
    registry.register(Collector())
    ProcessCollector(registry=registry)

    def answer(accepted: str) -> Answer:
        encode, content_type = choose_encoder(accepted)
        return Answer(HTTPStatus.OK, encode(registry), content_type)

    return answer


def _families(monitor: Monitor) -> Iterator[Family]:
    from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily

    for metric in METRICS:
        if metric.kind == "histogram":
            yield _histogram(metric, monitor)
            continue
        make = CounterMetricFamily if metric.kind == "counter" else GaugeMetricFamily
        family = make(metric.name, metric.help, labels=metric.labels)
        for labels, value in metric.read(monitor):
            family.add_metric(labels, float(value))
        yield family


def _histogram(metric: Metric, monitor: Monitor) -> Family:
    from prometheus_client.metrics_core import HistogramMetricFamily

    latency = monitor.latency
    bounds = [*(str(float(bound)) for bound in latency.bounds), "+Inf"]
    buckets = list(zip(bounds, map(float, accumulate(latency.counts)), strict=True))
    family = HistogramMetricFamily(metric.name, metric.help, labels=metric.labels)
    family.add_metric([monitor.relay], buckets, sum_value=latency.sum)
    return family
