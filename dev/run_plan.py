"""What a computing unit will do in one run of a workflow, and when: all thinking, no I/O.

The engine's own work is not simulated; what it reports is. Tuple counts and sizes are derived from
the workflow file and nothing else, so that two runs of one file store the same rows, whoever stores
them. Times are counted in polls: the plan of a run is the same whatever length a poll has.

    start ... region 0 starts, operators print ... poll 1 ... poll 3, pause, resume ... end

A *region* is what runs in one pipeline. It ends at the operators that give nothing before they have
seen everything (a sort, an aggregate): what they feed belongs to the next one. The regions share
the run's time evenly and run one after the other.
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

_GIVES_NOTHING_BEFORE_THE_END = {
    "Aggregate",
    "Sort",
    "SortPartitions",
    "StableMergeSort",
    "ReservoirSampling",
}
_SHOWS_A_PICTURE = ("Chart", "Plot", "Cloud", "Map", "Diagram", "Visualizer", "Histogram", "Graph")
_CONSOLE_LINE_BYTES = 96
_STATISTICS_ROW_BYTES = 88


@dataclass(frozen=True)
class PortGrowth:
    """A stored port that has more tuples than at the poll before."""

    stored: StoragePort
    tuple_count: int
    result_bytes: int | None
    """None for a picture: it is replaced as a whole, and Texera keeps no size of it."""
    console_bytes: int | None
    """Of the operator's console; None if it has none."""


@dataclass(frozen=True)
class StoreStatus:
    """The run's state changes."""

    status: str


@dataclass(frozen=True)
class StartRegion:
    """A region's engine workers start; from now on its stored ports have an address."""

    number: int
    storage_ports: tuple[StoragePort, ...]


@dataclass(frozen=True)
class FirstPrint:
    """An operator prints for the first time, so its console gets an address."""

    operator: Operator
    text: str


@dataclass(frozen=True)
class Poll:
    """The unit looks at what the stored ports hold by now."""

    number: int
    changes: tuple[PortGrowth, ...]
    runtime_stats_bytes: int


Action = StoreStatus | StartRegion | FirstPrint | Poll


@dataclass(frozen=True)
class Step:
    """One action, at its moment: whole polls, and the fraction of a poll after it."""

    at: float
    action: Action


@dataclass(frozen=True)
class RunPlan:
    """A run from RUNNING to its end. `failure` is what the failing operator says, if one does."""

    steps: tuple[Step, ...]
    end_status: str
    failure: str | None
    region_count: int

    @property
    def poll_count(self) -> int:
        """How many times the unit will poll."""
        return sum(isinstance(step.action, Poll) for step in self.steps)


def seconds_at(at: float, poll_s: float, first_poll_s: float = 2.0) -> float:
    """The moment of a step in a run with this poll interval, counted from RUNNING.

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
        # The first region is the last: no row gets past the operator that fails.
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
    moments = [float(number) for number in range(1, POLL_COUNT + 1) if number < end]
    if not failing:
        steps += _pause_and_resume(PAUSE_AFTER_POLL + 0.55)
        # The engine's last report comes with the end, before the status that announces it. An
        # engine that dies of an error gives none.
        moments.append(end)
    sizes = _Sizes(workflow, regions, region_polls, reached)
    steps += [
        Step(poll_at, poll) for poll_at, poll in zip(moments, sizes.polls(moments), strict=True)
    ]
    steps.append(Step(end, StoreStatus("FAILED" if failing else "COMPLETED")))
    # A stable sort: what happens at one moment happens in the order given above.
    steps.sort(key=lambda step: step.at)
    return RunPlan(
        steps=tuple(steps),
        end_status="FAILED" if failing else "COMPLETED",
        failure=next((f"{op}: {reason}" for op, reason in failing.items()), None),
        region_count=region_count,
    )


def _regions(workflow: Workflow) -> dict[str, int]:
    """Each operator's region: how many operators that hold everything back lie before it."""
    regions: dict[str, int] = {}
    for operator in workflow.operators:
        regions[operator.id] = max(
            (
                regions[source.id] + (source.type in _GIVES_NOTHING_BEFORE_THE_END)
                for source in workflow.inputs_of(operator)
            ),
            default=0,
        )
    return regions


def _reached(workflow: Workflow, failing: Mapping[str, str]) -> set[str]:
    """Operators that give rows: none that fails, and none behind one."""
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
    """How much every stored port, console and the statistics hold at a moment of the run."""

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

    def polls(self, moments: Sequence[float]) -> Iterator[Poll]:
        """What the unit finds at each of these moments, as changes since the one before."""
        known = dict.fromkeys(self._workflow.storage_ports, 0)
        for number, at in enumerate(moments, start=1):
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
        holds_back = operator.type in _GIVES_NOTHING_BEFORE_THE_END or _is_picture(operator)
        if holds_back and share < 1.0:
            return 0
        return math.ceil(self._totals[operator.id] * share)


def tuple_totals(workflow: Workflow) -> dict[str, int]:
    """How many tuples each operator gives in a whole run, from its properties where they say."""
    totals: dict[str, int] = {}
    for operator in workflow.operators:
        given = sum(totals[source.id] for source in workflow.inputs_of(operator))
        totals[operator.id] = _tuple_total(operator, given)
    return totals


def _tuple_total(operator: Operator, given: int) -> int:
    limit = operator.properties.get("limit")
    text = operator.properties.get("textInput")
    if operator.type == "TextInput" and isinstance(text, str):
        return len(text.splitlines())
    if isinstance(limit, int) and limit > 0:
        return min(limit, given) if given else limit
    if _is_picture(operator):
        return 1
    if not given:
        return 500 + _steady(operator, 4500)
    if operator.type == "Filter":
        return max(1, given * (25 + _steady(operator, 50)) // 100)
    if operator.type == "Aggregate":
        return max(1, min(given, 5 + _steady(operator, 40)))
    return given


def _growth(stored: StoragePort, tuple_count: int, poll_number: int) -> PortGrowth:
    operator = stored.operator
    row_bytes = 40 + _steady(operator, 160)
    return PortGrowth(
        stored=stored,
        tuple_count=tuple_count,
        result_bytes=None if _is_picture(operator) else tuple_count * row_bytes,
        console_bytes=poll_number * _CONSOLE_LINE_BYTES if operator.is_python else None,
    )


def _is_picture(operator: Operator) -> bool:
    return operator.type.endswith(_SHOWS_A_PICTURE)


def _steady(operator: Operator, below: int) -> int:
    """A number that looks arbitrary and is always the same for this operator."""
    digest = hashlib.sha256(operator.id.encode()).digest()
    return int.from_bytes(digest[:4], "big") % below
