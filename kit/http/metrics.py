"""Prometheus metrics whose label values are known when they are defined.

Every child is exported from the start, at 0: `increase` sees a first event only if its series was
there before. A value outside its set (of a newer peer, say) counts as `other`, so that nothing
that a peer sends makes series.

A child is plain numbers, without the lock that prometheus_client takes for each of its own. Each is
changed by one thread only; a scrape reads it on the event loop.
"""

import asyncio
import itertools
import time
from bisect import bisect_left
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any, Generic, Protocol, TypeVar

from prometheus_client import CollectorRegistry
from prometheus_client.core import Metric
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector
from prometheus_client.samples import Exemplar
from prometheus_client.utils import floatToGoString  # untyped

OTHER = "other"
OUTCOMES = ("ok", "refused", "failed")
"""Of a request: a status below 400, below 500, and any other."""
LAG_PERIOD_S = 1.0
LAG_BUCKETS_S = (0.001, 0.005, 0.025, 0.1, 0.5, 2.5, 10)
REQUEST_BUCKETS_S = (0.001, 0.005, 0.025, 0.1, 0.5, 2.5, 10, 60)
"""From a cached read to a long poll. Few: there is a histogram for each route."""


class Child(Protocol):
    def collect(self, metric: Metric, labels: dict[str, str]) -> None:
        """Adds the samples with these labels to the family's `metric`."""


ChildT = TypeVar("ChildT", bound=Child)


class Counter:
    """A number that only grows."""

    __slots__ = ("read", "value")
    suffix = "_total"

    def __init__(self) -> None:
        self.value: float = 0
        self.read: Callable[[], float] | None = None
        """Set where the number is kept elsewhere: called at each scrape."""

    def inc(self, amount: float = 1) -> None:
        self.value += amount

    def collect(self, metric: Metric, labels: dict[str, str]) -> None:
        value = self.value if self.read is None else self.read()
        metric.add_sample(metric.name + self.suffix, labels, float(value))


class Gauge(Counter):
    """A number that is what it is now."""

    __slots__ = ()
    suffix = ""

    def set(self, value: float) -> None:
        self.value = value


class Histogram:
    """Counts of observed values, by upper bounds."""

    __slots__ = ("_bounds", "_counts", "_exemplars", "_sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0
        self._exemplars: dict[int, Exemplar] = {}

    def observe(self, value: float, trace_id: str | None = None) -> None:
        """With a `trace_id` the value is its bucket's exemplar, the last one of each is kept."""
        index = bisect_left(self._bounds, value)
        self._counts[index] += 1
        self._sum += value
        if trace_id:
            self._exemplars[index] = Exemplar({"trace_id": trace_id}, value)

    def collect(self, metric: Metric, labels: dict[str, str]) -> None:
        count = 0
        for index, bound in enumerate((*self._bounds, float("inf"))):
            count += self._counts[index]
            bucket = {**labels, "le": _text(bound)}
            exemplar = self._exemplars.get(index)
            metric.add_sample(f"{metric.name}_bucket", bucket, count, exemplar=exemplar)
        metric.add_sample(f"{metric.name}_count", labels, count)
        metric.add_sample(f"{metric.name}_sum", labels, self._sum)


def _text(bound: float) -> str:
    text: str = floatToGoString(bound)  # type: ignore[no-untyped-call]
    return text


class Family(Collector, Generic[ChildT]):
    """One metric: a child for each combination of its labels' values."""

    def __init__(
        self,
        make: Callable[[], ChildT],
        kind: str,
        name: str,
        description: str,
        labels: Mapping[str, Iterable[str]],
    ) -> None:
        self._make = make
        self._kind = kind
        self._name = name.removesuffix("_total") if kind == "counter" else name
        self._description = description
        self._label_names = tuple(labels)
        self._known: tuple[set[str], ...] = tuple(set() for _ in labels)
        self._children: dict[tuple[str, ...], ChildT] = {}
        for values in itertools.product(*labels.values()):
            self.add(*values)

    def add(self, *values: str) -> ChildT:
        """The child with these values, which are part of the sets from now on."""
        child = self._children.get(values)
        if child is None:
            for value, known in zip(values, self._known, strict=True):
                known.add(value)
            child = self._children[values] = self._make()
        return child

    def labels(self, *values: str) -> ChildT:
        """The child with these values; `other` stands for a value that is in no set."""
        child = self._children.get(values)
        if child is not None:
            return child
        pairs = zip(values, self._known, strict=True)
        return self.add(*(value if value in known else OTHER for value, known in pairs))

    def totals(self, label: str) -> dict[str, float]:
        """The sums of a counter by the values of one of its labels."""
        place, totals = self._label_names.index(label), dict[str, float]()
        for values, child in self._children.items():
            if isinstance(child, Counter):
                value = child.value if child.read is None else child.read()
                totals[values[place]] = totals.get(values[place], 0.0) + value
        return totals

    def describe(self) -> Iterable[Metric]:
        yield Metric(self._name, self._description, self._kind)

    def collect(self) -> Iterable[Metric]:
        metric = Metric(self._name, self._description, self._kind)
        for values, child in self._children.items():
            child.collect(metric, dict(zip(self._label_names, values, strict=True)))
        yield metric


class Definitions:
    """Defines the metrics of a registry. Labels are given with all their values."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry

    def counter(self, name: str, description: str, **labels: Iterable[str]) -> Family[Counter]:
        return self._register(Family(Counter, "counter", name, description, labels))

    def gauge(self, name: str, description: str, **labels: Iterable[str]) -> Family[Gauge]:
        return self._register(Family(Gauge, "gauge", name, description, labels))

    def histogram(
        self, name: str, description: str, bounds: Sequence[float], **labels: Iterable[str]
    ) -> Family[Histogram]:
        def make() -> Histogram:
            return Histogram(bounds)

        return self._register(Family(make, "histogram", name, description, labels))

    def process(self) -> None:
        """`process_*`: CPU, memory, open files, start."""
        ProcessCollector(registry=self._registry)

    def _register(self, family: Family[ChildT]) -> Family[ChildT]:
        self._registry.register(family)
        return family


class NamedRoute(Protocol):
    @property
    def path(self) -> str:
        """The template."""

    @property
    def method(self) -> str: ...


class RequestMetrics:
    """Requests by route template, method and outcome, their durations, and problems by type.

    All paths that are no route share one child, `none`. `kit.http.routing` records each request.
    """

    def __init__(
        self,
        define: Definitions,
        service: str,
        slugs: Iterable[str],
        *,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.clock = clock
        self._requests = define.counter(
            f"{service}_requests_total",
            "Requests by route and outcome: ok, refused (4xx) or failed (5xx).",
            route=(),
            method=(),
            outcome=(),
        )
        self._seconds = define.histogram(
            f"{service}_request_seconds",
            "From a request's head to its response, by route.",
            REQUEST_BUCKETS_S,
            route=(),
            method=(),
        )
        self._problems = define.counter(
            f"{service}_problems_total",
            "Responses that are problems, by type; `other` if only another service has it.",
            slug=[*sorted(slugs), OTHER],
        )
        self.add_route("none", "none")

    def add_route(self, route: str, method: str) -> None:
        for outcome in OUTCOMES:
            self._requests.add(route, method, outcome)
        self._seconds.add(route, method)

    def add_routes(self, routes: Iterable[NamedRoute]) -> None:
        for route in routes:
            self.add_route(route.path, route.method)

    def totals(self) -> dict[str, float]:
        """Requests by outcome, of all routes together."""
        return self._requests.totals("outcome")

    def of(self, route: str, method: str, status: int) -> tuple[Counter, Histogram]:
        """The count and the durations of such responses."""
        outcome = OUTCOMES[(status >= 400) + (status >= 500)]
        requests = self._requests.labels(route, method, outcome)
        return requests, self._seconds.labels(route, method)

    def record(
        self,
        route: str,
        method: str,
        status: int,
        started_at: float,
        *,
        problem: str | None = None,
        trace_id: str | None = None,
    ) -> None:
        """`started_at` is of `clock`, `problem` the slug of a response that is one."""
        requests, seconds = self.of(route, method, status)
        requests.inc()
        seconds.observe(self.clock() - started_at, trace_id)
        if problem is not None:
            self._problems.labels(problem).inc()


async def watch_loop_lag(
    lag: Histogram,
    *,
    monotonic: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], Awaitable[Any]] = asyncio.sleep,
) -> None:
    """Observes how late the event loop runs a timer, once in `LAG_PERIOD_S`, until cancelled."""
    while True:
        due_at = monotonic() + LAG_PERIOD_S
        await sleep(LAG_PERIOD_S)
        lag.observe(max(0.0, monotonic() - due_at))
