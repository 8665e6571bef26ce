"""The plan of one run of a workflow: a computing unit's actions and their times, without I/O.

The engine's work is not simulated, only its reports. Tuple counts and sizes are derived from the
workflow file alone, so that two runs of one file store the same rows. Times are counted in polls:
the plan does not depend on the poll interval.

    start ... region 0 starts, operators print ... poll 1 ... poll 3, pause, resume ... end

A *region* is a pipeline. It ends at blocking operators, which have no output before they have all
their input (a sort, an aggregate): their consumers are in the next region. Regions run one after
the other and share the run's time evenly.
"""

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from dev.python_operators import failures
from dev.workflow_file import Operator, StoragePort, Workflow

POLL_COUNT = 6
"""Polls of a run that ends well: with the editor's 3 s between them it takes about 20 s."""

AFTER_LAST_POLL = 0.8
"""The run ends this long after its last poll, in polls."""

PAUSE_AFTER_POLL = 3
FAILS_AFTER_POLL = 2

_BLOCKING_TYPES = {
    "Aggregate",
    "Sort",
    "SortPartitions",
    "StableMergeSort",
    "ReservoirSampling",
}
_CHART_SUFFIXES = ("Chart", "Plot", "Cloud", "Map", "Diagram", "Visualizer", "Histogram", "Graph")
_CONSOLE_LINE_BYTES = 96
_STATISTICS_ROW_BYTES = 88


@dataclass(frozen=True)
class PortGrowth:
    """A stored port that has more tuples than at the poll before."""

    stored: StoragePort
    tuple_count: int
    result_bytes: int | None
    """None for a chart: it is replaced as a whole, and Texera stores no size of it."""
    console_bytes: int | None
    """Of the operator's console; None if it has none."""


@dataclass(frozen=True)
class StoreStatus:
    """The run's state changes."""

    status: str


@dataclass(frozen=True)
class StartRegion:
    """A region's workers start; its stored ports have a URI from now on."""

    number: int
    storage_ports: tuple[StoragePort, ...]


@dataclass(frozen=True)
class FirstPrint:
    """An operator prints for the first time, so its console gets a URI."""

    operator: Operator
    text: str


@dataclass(frozen=True)
class Poll:
    """The unit reads what the stored ports hold."""

    number: int
    changes: tuple[PortGrowth, ...]
    runtime_stats_bytes: int


Action = StoreStatus | StartRegion | FirstPrint | Poll


@dataclass(frozen=True)
class Step:
    """One action and its time, in polls from RUNNING."""

    at: float
    action: Action


@dataclass(frozen=True)
class RunPlan:
    """A run from RUNNING to its end. `failure` is the failing operator's error, if one fails."""

    steps: tuple[Step, ...]
    end_status: str
    failure: str | None
    region_count: int


def seconds_at(at: float, poll_s: float, first_poll_s: float = 2.0) -> float:
    """The time of a step in a run with this poll interval, in seconds from RUNNING.

    The first poll comes after `min(first_poll_s, poll_s)`, each other one `poll_s` later.
    """
    first = min(first_poll_s, poll_s)
    return at * first if at <= 1 else first + (at - 1) * poll_s


def plan_run(workflow: Workflow) -> RunPlan:
    """The plan of one run of this workflow; the same workflow always gives the same plan."""
    failing = failures(workflow)
    end = FAILS_AFTER_POLL + 0.5 if failing else POLL_COUNT + AFTER_LAST_POLL
    regions = _regions(workflow)
    if failing:
        # The first region is the last: no row passes the operator that fails.
        regions = {operator_id: number for operator_id, number in regions.items() if number == 0}
    region_count = max(regions.values()) + 1
    region_polls = end / region_count
    reached = _reached(workflow, failing) & regions.keys()

    steps = [Step(0.0, StoreStatus("RUNNING"))]
    for number in range(region_count):
        operators = [op for op in workflow.operators if regions.get(op.id) == number]
        steps.append(Step(number * region_polls, StartRegion(number, _stored(workflow, operators))))
        printing = [op for op in operators if op.is_python and op.id in reached | failing.keys()]
        for place, operator in enumerate(printing, start=1):
            text = failing.get(operator.id, f"{operator.display_name} started")
            soon = min(0.3, region_polls / 2) * place / len(printing)
            steps.append(Step(number * region_polls + soon, FirstPrint(operator, text)))
    poll_times = [float(number) for number in range(1, POLL_COUNT + 1) if number < end]
    if not failing:
        steps += _pause_and_resume(PAUSE_AFTER_POLL + 0.55)
        # The engine's last report comes at the end, before the terminal status; an engine that
        # fails sends none.
        poll_times.append(end)
    sizes = _Sizes(workflow, regions, region_polls, reached)
    steps += [
        Step(poll_at, poll)
        for poll_at, poll in zip(poll_times, sizes.polls(poll_times), strict=True)
    ]
    steps.append(Step(end, StoreStatus("FAILED" if failing else "COMPLETED")))
    # A stable sort: steps of the same time keep the order given above.
    steps.sort(key=lambda step: step.at)
    return RunPlan(
        steps=tuple(steps),
        end_status="FAILED" if failing else "COMPLETED",
        failure=next((f"{op}: {reason}" for op, reason in failing.items()), None),
        region_count=region_count,
    )


def _regions(workflow: Workflow) -> dict[str, int]:
    """Each operator's region: the number of blocking operators before it."""
    regions: dict[str, int] = {}
    for operator in workflow.operators:
        regions[operator.id] = max(
            (
                regions[source.id] + (source.type in _BLOCKING_TYPES)
                for source in workflow.inputs_of(operator)
            ),
            default=0,
        )
    return regions


def _reached(workflow: Workflow, failing: Mapping[str, str]) -> set[str]:
    """Operators with output: none that fails, and none after one."""
    reached: set[str] = set()
    for operator in workflow.operators:
        sources = workflow.inputs_of(operator)
        if operator.id not in failing and all(source.id in reached for source in sources):
            reached.add(operator.id)
    return reached


def _stored(workflow: Workflow, operators: list[Operator]) -> tuple[StoragePort, ...]:
    return tuple(stored for stored in workflow.storage_ports if stored.operator in operators)


def _pause_and_resume(at: float) -> list[Step]:
    """A user pauses and soon resumes; the unit stores the transient states too, as Texera does."""
    statuses = ("PAUSING", "PAUSED", "RESUMING", "RUNNING")
    return [Step(at + 0.1 * place, StoreStatus(status)) for place, status in enumerate(statuses)]


class _Sizes:
    """The sizes of stored ports, consoles and statistics over the run."""

    def __init__(
        self,
        workflow: Workflow,
        regions: Mapping[str, int],
        region_polls: float,
        reached: set[str],
    ) -> None:
        self._workflow = workflow
        self._regions = regions
        self._region_polls = region_polls
        self._reached = reached
        self._totals = tuple_totals(workflow)

    def polls(self, poll_times: Sequence[float]) -> Iterator[Poll]:
        """The poll at each of these times, with the changes since the one before."""
        known = dict.fromkeys(self._workflow.storage_ports, 0)
        for number, at in enumerate(poll_times, start=1):
            changes = []
            for stored in known:
                count = self._tuple_count(stored.operator, at)
                if count != known[stored]:
                    known[stored] = count
                    changes.append(_growth(stored, count, number))
            statistics_rows = number * len(self._workflow.operators)
            yield Poll(number, tuple(changes), statistics_rows * _STATISTICS_ROW_BYTES)

    def _tuple_count(self, operator: Operator, at: float) -> int:
        if operator.id not in self._reached:
            return 0
        started = self._regions[operator.id] * self._region_polls
        share = min(1.0, max(0.0, (at - started) / self._region_polls))
        is_blocking = operator.type in _BLOCKING_TYPES or _is_chart(operator)
        if is_blocking and share < 1.0:
            return 0
        return math.ceil(self._totals[operator.id] * share)


def tuple_totals(workflow: Workflow) -> dict[str, int]:
    """Each operator's number of output tuples in a whole run, from its properties if possible."""
    totals: dict[str, int] = {}
    for operator in workflow.operators:
        input_count = sum(totals[source.id] for source in workflow.inputs_of(operator))
        totals[operator.id] = _tuple_total(operator, input_count)
    return totals


def _tuple_total(operator: Operator, input_count: int) -> int:
    limit = operator.properties.get("limit")
    text = operator.properties.get("textInput")
    if operator.type == "TextInput" and isinstance(text, str):
        return len(text.splitlines())
    if isinstance(limit, int) and limit > 0:
        return min(limit, input_count) if input_count else limit
    if _is_chart(operator):
        return 1
    if not input_count:
        return 500 + _pseudo_random(operator, 4500)
    if operator.type == "Filter":
        return max(1, input_count * (25 + _pseudo_random(operator, 50)) // 100)
    if operator.type == "Aggregate":
        return max(1, min(input_count, 5 + _pseudo_random(operator, 40)))
    return input_count


def _growth(stored: StoragePort, tuple_count: int, poll_number: int) -> PortGrowth:
    operator = stored.operator
    row_bytes = 40 + _pseudo_random(operator, 160)
    return PortGrowth(
        stored=stored,
        tuple_count=tuple_count,
        result_bytes=None if _is_chart(operator) else tuple_count * row_bytes,
        console_bytes=poll_number * _CONSOLE_LINE_BYTES if operator.is_python else None,
    )


def _is_chart(operator: Operator) -> bool:
    return operator.type.endswith(_CHART_SUFFIXES)


def _pseudo_random(operator: Operator, below: int) -> int:
    """A number below `below` that depends on the operator's id alone."""
    digest = hashlib.sha256(operator.id.encode()).digest()
    return int.from_bytes(digest[:4], "big") % below
