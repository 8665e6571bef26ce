"""Metrics of both services: names and labels, and that all of them exist from the start."""

import re
from collections.abc import Iterable

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.core import Metric
from prometheus_client.exposition import generate_latest

from central import problems
from central.domain.fold import EntryOutcome
from central.metrics import CLOSE_REASONS, OPERATIONS, TASKS
from central.metrics import LOST_REASONS as CENTRALS_LOST_REASONS
from central.store.orphans import CloseReason
from central.wire.entries import Entry
from central.wire.leases import LostReason
from sidecar import metrics as sidecar_metrics
from sidecar.spool.entry import Priority
from tests.house.conftest import Tree
from tests.metrics_page import all_metrics, page

SMALL_UNITS = {"ms", "us", "ns", "kb", "mb", "kib", "mib", "minutes", "milliseconds", "percent"}
STATES = {
    "dropped",
    "withheld",
    "full",
    "info",
    "parked",
    "ratio",
    "reachable",
    "up",
    "unavailable",
}
"""Last words of gauges that count nothing: a ratio, or 1 while something is so."""
MAX_SERIES = {"sidecar": 1_200, "central": 2_500}
"""Of one process; five hundred sidecars are scraped."""


def misnamed(service: str, metrics: Iterable[tuple[str, str]]) -> list[str]:
    """Metrics by name and type."""
    faults = []
    for name, kind in metrics:
        last = name.removesuffix("_total").rpartition("_")[2]
        if not name.startswith((f"{service}_", "process_")):
            faults.append(f"{name}: expected the prefix {service}_")
        if (kind == "counter") != name.endswith("_total"):
            faults.append(f"{name}: _total is for counters, and for all of them")
        if last in SMALL_UNITS or not (last.endswith("s") or last in STATES):
            faults.append(f"{name}: expected a base unit or what is counted, in the plural")
    return faults


@pytest.fixture(scope="module")
def services() -> dict[str, CollectorRegistry]:
    return all_metrics()


def full_name(metric: Metric) -> str:
    return f"{metric.name}_total" if metric.type == "counter" else metric.name


def test_metrics_have_a_prefix_and_a_unit(services: dict[str, CollectorRegistry]) -> None:
    for service, registry in services.items():
        named = [(full_name(metric), metric.type) for metric in registry.collect()]
        assert misnamed(service, named) == []
    assert misnamed("sidecar", [("central_writes_total", "counter")]) != []
    assert misnamed("sidecar", [("sidecar_writes", "counter")]) != []
    assert misnamed("sidecar", [("sidecar_delivery_ms", "histogram")]) != []
    assert misnamed("sidecar", [("sidecar_delivery", "gauge")]) != []


def test_every_metric_has_its_series_from_the_start(
    services: dict[str, CollectorRegistry],
) -> None:
    """`increase` sees the first event only in a series that was there before it."""
    for registry in services.values():
        for metric in registry.collect():
            assert metric.samples, metric.name
            if metric.type == "counter" and not metric.name.startswith("process_"):
                assert {sample.value for sample in metric.samples} == {0.0}, metric.name


def test_there_are_no_series_of_creation_times(services: dict[str, CollectorRegistry]) -> None:
    for registry in services.values():
        assert "_created" not in generate_latest(registry).decode()


def test_a_process_has_no_more_series_than_its_share(
    services: dict[str, CollectorRegistry],
) -> None:
    for service, registry in services.items():
        count = sum(len(metric.samples) for metric in registry.collect())
        assert count <= MAX_SERIES[service]


def test_labels_have_the_values_that_the_code_gives_them(tree: Tree) -> None:
    """The definitions stand below what they name, so they repeat it."""
    assert set(CLOSE_REASONS) == {str(reason) for reason in CloseReason}
    assert set(CENTRALS_LOST_REASONS) == {str(reason) for reason in LostReason}
    operations = {entry.__struct_config__.tag for entry in Entry.__subclasses__()}
    assert set(OPERATIONS) == operations | {"unknown"}
    assert set(sidecar_metrics.OPERATIONS) == operations
    assert list(sidecar_metrics.PRIORITIES) == [priority.name.lower() for priority in Priority]
    assert set(sidecar_metrics.TASKS) == supervised(tree["sidecar/lifecycle.py"])
    assert set(TASKS) == supervised(tree["central/lifecycle.py"])
    assert set(sidecar_metrics.CALLS) == calls_to_central(tree)
    assert EntryOutcome.__annotations__["kind"].__args__ == ("applied", "refused", "deferred")


def test_every_problem_that_ends_a_write_is_counted_by_its_slug(tree: Tree) -> None:
    """The sidecar must not know central; these files refuse entries."""
    sources = (
        "central/domain/fold.py",
        "central/domain/uri_registry.py",
        "central/wire/entries.py",
    )
    raised = {
        name
        for path in (*sources, "central/store/failures.py")
        for name in re.findall(r"problems\.(\w+)\(", tree[path])
    }
    slugs = {getattr(problems, name).slug for name in raised}

    assert len(slugs) > 10
    assert slugs - set(sidecar_metrics.REFUSALS) == set()


def test_documents_name_metrics_that_exist(
    tree: Tree, services: dict[str, CollectorRegistry]
) -> None:
    known = {
        name
        for registry in services.values()
        for metric in registry.collect()
        for name in (metric.name, full_name(metric), *(sample.name for sample in metric.samples))
    }
    pages = ("docs/runbooks.md", "docs/operations.md", "README.md", "helm/README.in.md")
    named = {
        (path, name)
        for path in pages
        for name in re.findall(r"`((?:sidecar|central)_[a-z_]+)[`{ ]", tree[path])
    }

    assert len(named) > 30
    assert {pair for pair in named if pair[1] not in known} == set()


def test_the_page_of_metrics_is_up_to_date(tree: Tree) -> None:
    assert tree["docs/metrics.md"] == page(), "run `make chart`"


def supervised(text: str) -> set[str]:
    return set(re.findall(r'supervise\(\s*"([a-z-]+)"', text))


def calls_to_central(tree: Tree) -> set[str]:
    """The names of calls, wherever one is made."""
    named = re.compile(
        r"(?:\.call|_signed|\.read|\.post|\.post_query|_write|_request|call =|is_withdrawn else)"
        r'\(?\s*"([a-z-]+)"|upstream_requests.labels\("([a-z-]+)"'
    )
    return {
        name
        for path, text in tree.items()
        if path.startswith("sidecar/") and not path.startswith("sidecar/cli/")
        for found in named.findall(text)
        for name in found
        if name
    } - {"result-uri", "console", "wait"}  # reads of the CU, sent as `uris`
