"""docs/metrics.md, from the services' definitions: `make chart` writes it by this module."""

from collections.abc import Iterable, Iterator
from pathlib import Path

from prometheus_client import CollectorRegistry
from prometheus_client.core import Metric

import central
import sidecar
from central.app import ROUTES as CENTRALS_ROUTES
from central.metrics import Metrics as CentralMetrics
from central.settings import DatabaseSettings
from central.store.database import Database
from central.wire.entries import WIRE_VERSION
from sidecar.metrics import Metrics as SidecarMetrics
from sidecar.server.app import ROUTES as SIDECARS_ROUTES
from sidecar.spool.schema import FORMAT_VERSION

PATH = Path(__file__).parent.parent / "docs/metrics.md"
_HEAD = """# Metrics

Written by `make chart` from `sidecar/metrics.py` and `central/metrics.py`. Both services serve
them at `/metrics` of the ops listener (7071, 7081): in Prometheus' text format or, where the
scraper asks for it, as OpenMetrics, then with trace ids of requests as exemplars. Every series is
there from the start, at 0, so that `increase` sees a first event. No label has a value from
outside: `other` stands for one that this version does not know. [runbooks.md](runbooks.md) has the
alerts that are made of them.
"""
_LONG_SETS = {
    "route": "each route's template, or `none`",
    "method": "its method",
    "statement": "each block of `central/sql`",
    "version": "the release",
    "wire": "of the protocol",
    "spool_format": "of the file",
}
"""Labels whose values would fill the page."""


def all_metrics() -> dict[str, CollectorRegistry]:
    """What a process of each service exports from its start on."""
    sidecars = SidecarMetrics()
    sidecars.requests.add_routes(SIDECARS_ROUTES)
    sidecars.build_info.add(sidecar.__version__, str(WIRE_VERSION), str(FORMAT_VERSION)).set(1)
    centrals = CentralMetrics(CollectorRegistry())
    centrals.requests.add_routes(CENTRALS_ROUTES)
    centrals.build_info.add(central.__version__, str(WIRE_VERSION)).set(1)
    Database(DatabaseSettings("postgresql:///"), centrals)  # names its statements, connects later
    return {"sidecar": sidecars.registry, "central": centrals.registry}


def page() -> str:
    return "\n".join([_HEAD, *_sections(all_metrics())])


def _sections(services: dict[str, CollectorRegistry]) -> Iterator[str]:
    for service, registry in services.items():
        metrics = list(registry.collect())
        count = sum(len(metric.samples) for metric in metrics)
        yield f"## {service.capitalize()}\n\n{count} series for each process.\n"
        yield "| metric | type | labels | what it is |\n|---|---|---|---|"
        yield from map(_row, metrics)
        yield ""


def _row(metric: Metric) -> str:
    name = f"{metric.name}_total" if metric.type == "counter" else metric.name
    kind = metric.type
    if kind == "histogram":
        kind = f"histogram: {', '.join(_bounds(metric))}"
    return f"| `{name}` | {kind} | {'; '.join(_labels(metric))} | {metric.documentation} |"


def _bounds(metric: Metric) -> Iterable[str]:
    bounds = dict.fromkeys(s.labels["le"] for s in metric.samples if "le" in s.labels)
    return [f"{float(bound):g}" for bound in bounds if bound != "+Inf"]


def _labels(metric: Metric) -> Iterator[str]:
    names = [name for name in metric.samples[0].labels if name != "le"]
    for name in names:
        values = dict.fromkeys(sample.labels[name] for sample in metric.samples)
        shown = ", ".join(f"`{value}`" for value in values if value)
        yield f"`{name}`: {_LONG_SETS.get(name, shown)}"


if __name__ == "__main__":
    PATH.write_text(page())
