"""Metrics: known from the start, bounded, in the form that Prometheus reads."""

import asyncio

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import generate_latest
from prometheus_client.openmetrics import exposition, parser

from kit.http.metrics import (
    LAG_PERIOD_S,
    Definitions,
    RequestMetrics,
    watch_loop_lag,
)

TRACE = "0af7651916cd43dd8448eb211c80319c"


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


@pytest.fixture
def define(registry: CollectorRegistry) -> Definitions:
    return Definitions(registry)


def lines(registry: CollectorRegistry) -> list[str]:
    text: str = generate_latest(registry).decode()
    return [line for line in text.splitlines() if not line.startswith("#")]


def test_every_child_is_exported_at_zero_from_the_start(
    registry: CollectorRegistry, define: Definitions
) -> None:
    define.counter("x_writes_total", "Writes.", op=("put", "delete"), state=("ok", "failed"))
    define.histogram("x_seconds", "Durations.", (0.1, 1), call=("read",))

    assert lines(registry) == [
        'x_writes_total{op="put",state="ok"} 0.0',
        'x_writes_total{op="put",state="failed"} 0.0',
        'x_writes_total{op="delete",state="ok"} 0.0',
        'x_writes_total{op="delete",state="failed"} 0.0',
        'x_seconds_bucket{call="read",le="0.1"} 0.0',
        'x_seconds_bucket{call="read",le="1.0"} 0.0',
        'x_seconds_bucket{call="read",le="+Inf"} 0.0',
        'x_seconds_count{call="read"} 0.0',
        'x_seconds_sum{call="read"} 0.0',
    ]


def test_values_that_nobody_named_make_one_series(
    registry: CollectorRegistry, define: Definitions
) -> None:
    family = define.counter("x_refusals_total", "Refusals.", slug=("late",))

    for number in range(1_000):
        family.labels(f"problem-{number}").inc()

    assert lines(registry) == [
        'x_refusals_total{slug="late"} 0.0',
        'x_refusals_total{slug="other"} 1000.0',
    ]


def test_a_value_on_a_bound_belongs_to_its_bucket(
    registry: CollectorRegistry, define: Definitions
) -> None:
    seconds = define.histogram("x_seconds", "Durations.", (0.1, 1)).labels()

    for value in (0.1, 0.2, 1, 5):
        seconds.observe(value)

    assert lines(registry) == [
        'x_seconds_bucket{le="0.1"} 1.0',
        'x_seconds_bucket{le="1.0"} 3.0',
        'x_seconds_bucket{le="+Inf"} 4.0',
        "x_seconds_count 4.0",
        "x_seconds_sum 6.3",
    ]


def test_a_number_kept_elsewhere_is_read_at_each_scrape(
    registry: CollectorRegistry, define: Definitions
) -> None:
    kept: list[int] = []
    define.gauge("x_entries", "Entries.").labels().read = lambda: len(kept)

    before = lines(registry)
    kept.append(1)

    assert (before, lines(registry)) == (["x_entries 0.0"], ["x_entries 1.0"])


def test_a_name_is_defined_once(define: Definitions) -> None:
    define.counter("x_writes_total", "Writes.")

    with pytest.raises(ValueError, match="x_writes"):
        define.counter("x_writes_total", "Writes.")


def test_exemplars_are_shown_to_who_asks_for_open_metrics(
    registry: CollectorRegistry, define: Definitions
) -> None:
    seconds = define.histogram("x_seconds", "Durations.", (0.1, 1)).labels()
    seconds.observe(0.05)
    seconds.observe(0.5, TRACE)

    text = exposition.generate_latest(registry).decode()  # type: ignore[no-untyped-call]

    (family,) = parser.text_string_to_metric_families(text)  # type: ignore[no-untyped-call]
    exemplars = {s.labels["le"]: s.exemplar for s in family.samples if "le" in s.labels}
    assert exemplars["0.1"] is None
    assert exemplars["1.0"] is not None
    assert exemplars["1.0"].labels == {"trace_id": TRACE}
    assert TRACE not in generate_latest(registry).decode()


def test_requests_are_counted_by_outcome(registry: CollectorRegistry, define: Definitions) -> None:
    requests = RequestMetrics(define, "x", ["late"])
    requests.add_route("/v1/a/{id}", "GET")
    labels = {"route": "/v1/a/{id}", "method": "GET"}

    for status in (200, 304, 404, 429, 500, 503, 503):
        requests.of("/v1/a/{id}", "GET", status)[0].inc()

    counts = [
        registry.get_sample_value("x_requests_total", labels | {"outcome": outcome})
        for outcome in ("ok", "refused", "failed")
    ]
    assert counts == [2, 2, 3]


async def test_the_lag_of_the_loop_is_how_late_a_timer_runs(
    registry: CollectorRegistry, define: Definitions
) -> None:
    lag = define.histogram("x_lag_seconds", "Lag.", (0.1, 1)).labels()
    now = 0.0

    async def sleep(seconds: float) -> None:
        nonlocal now
        if now > 10:
            raise asyncio.CancelledError
        now += seconds + 0.5

    with pytest.raises(asyncio.CancelledError):
        await watch_loop_lag(lag, monotonic=lambda: now, sleep=sleep)

    rounds = registry.get_sample_value("x_lag_seconds_count")
    assert rounds == 10 // (LAG_PERIOD_S + 0.5) + 1
    assert registry.get_sample_value("x_lag_seconds_sum") == rounds * 0.5
