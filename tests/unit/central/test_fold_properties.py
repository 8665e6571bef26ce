"""Properties of the fold: it is associative, and its statuses follow a model of their own."""

from dataclasses import dataclass
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from central.domain.fold import Changes, Execution, WriterStatus, fold
from central.domain.uri_registry import RegistryChange, UriRow
from central.wire.entries import (
    AnyEntry,
    DeleteUris,
    PutConsole,
    PutPortResult,
    SetConsoleBytes,
    SetPortResultBytes,
    UpdateExecution,
)
from kit.texera.uris import UriMinter
from tests.unit.central.folding import (
    CONSOLE_URI,
    OPERATOR,
    PORT,
    SENT_AT_MS,
    SOURCE,
    WID,
    execution,
    folded,
    outcomes,
    update,
)

IDS = st.integers(1, 3)
SIZES = st.integers(0, 100)
STATUSES = st.sampled_from([-1, 0, 1, 2, 3, 4, 5])


HEADERS = st.fixed_dictionaries(
    {
        "seq": st.integers(1, 99),
        "execution_id": IDS,
        "made_at_ms": st.integers(SENT_AT_MS - 1000, SENT_AT_MS + 10),
    }
)
KINDS: list[type[Any]] = [
    UpdateExecution,
    UpdateExecution,
    PutPortResult,
    SetPortResultBytes,
    PutConsole,
    SetConsoleBytes,
    DeleteUris,
]


@st.composite
def entries(draw: st.DrawFn) -> AnyEntry:
    kind = draw(st.sampled_from(KINDS))
    head = draw(HEADERS)
    owner = UriMinter(WID, head["execution_id"])
    fits = draw(st.sampled_from([True, True, True, False]))
    size = draw(st.none() | SIZES)
    fields: dict[type[Any], dict[str, Any]] = {
        UpdateExecution: {
            "status": draw(st.none() | STATUSES),
            "name": draw(st.none() | st.sampled_from(["", "a", "b"])),
            "result": draw(st.none() | st.sampled_from(["", "r"])),
            "log_location": draw(st.none() | st.just("/log")),
            "runtime_stats_bytes": size,
        },
        PutPortResult: {
            "global_port_id": PORT,
            "result_uri": owner.result_uri(PORT if fits else "elsewhere"),
            "result_bytes": size,
        },
        SetPortResultBytes: {"global_port_id": PORT, "result_bytes": size or 0},
        PutConsole: {
            "operator_id": OPERATOR,
            "uri": owner.console_uri(OPERATOR) if fits else CONSOLE_URI,
            "bytes": size,
        },
        SetConsoleBytes: {"operator_id": OPERATOR, "bytes": size or 0},
        DeleteUris: {},
    }
    made: AnyEntry = kind(**head, **fields[kind])
    return made


@st.composite
def worlds(draw: st.DrawFn) -> dict[int, Execution]:
    rows = {}
    for execution_id in range(1, 4):
        uri = draw(st.sampled_from([None, "", "stored before", "minted"]))
        stored = UriMinter(WID, execution_id).result_uri(PORT) if uri == "minted" else uri
        rows[execution_id] = execution(
            execution_id,
            writer_status=draw(st.sampled_from([WriterStatus.WRITER] * 4 + [WriterStatus.REVOKED])),
            may_set_status=draw(st.sampled_from([True, True, True, False])),
            status=draw(STATUSES),
            ended_by=draw(st.sampled_from([SOURCE, None])),
            results=draw(st.sampled_from([{}, {PORT: UriRow(stored, 1)}])),
        )
    return rows


@dataclass
class Tables:
    """What the database would hold after writing changes: one value per cell."""

    cells: dict[Any, Any]

    def write(self, changes: Changes) -> None:
        for execution_id, change in changes.executions.items():
            for column in change.__struct_fields__:
                value = getattr(change, column)
                if column == "status_age_ms" and value is not None:
                    value = min(value, self.cells.get((execution_id, column), value))
                if (column == "log_location" and value is not type(change)().log_location) or (
                    column != "log_location" and value is not None
                ):
                    self.cells[execution_id, column] = value
        for table, rows in (("results", changes.results), ("consoles", changes.consoles)):
            for key, row in rows.items():
                self._write_row((table, key), row)

    def _write_row(self, cell: Any, row: RegistryChange | None) -> None:
        if row is None:
            self.cells.pop(cell, None)
        elif row.uri is not None:
            self.cells[cell] = (row.uri, row.size_bytes)
        elif cell in self.cells:
            self.cells[cell] = (self.cells[cell][0], row.size_bytes)


def tables_of(rows: dict[int, Execution]) -> Tables:
    return Tables(
        {
            ("results", (row.execution_id, key)): (held.uri, held.size_bytes)
            for row in rows.values()
            for key, held in row.results.items()
        }
    )


@settings(max_examples=300, deadline=None)
@given(worlds(), st.lists(entries(), max_size=12), st.integers(0, 12))
def test_folding_in_parts_is_folding_together(
    rows: dict[int, Execution], made: list[AnyEntry], cut: int
) -> None:
    together = fold(SOURCE, rows, made, SENT_AT_MS)
    whole = tables_of(rows)
    whole.write(together.changes)

    for parts in ([[each] for each in made], [made[:cut], made[cut:]]):
        current, outcomes, tables = rows, [], tables_of(rows)
        for part in parts:
            step = fold(SOURCE, current, part, SENT_AT_MS)
            outcomes += step.outcomes
            tables.write(step.changes)
            current = step.after()

        separate = [(v.entry, v.kind, v.removed, v.problem and v.problem.slug) for v in outcomes]
        assert separate == [
            (v.entry, v.kind, v.removed, v.problem and v.problem.slug) for v in together.outcomes
        ]
        assert current == together.after()
        assert tables == whole


@settings(deadline=None)
@given(worlds(), st.lists(entries(), max_size=12))
def test_folding_changes_nothing_that_it_was_given(
    rows: dict[int, Execution], made: list[AnyEntry]
) -> None:
    before = {key: repr(row) for key, row in rows.items()}

    fold(SOURCE, rows, made, SENT_AT_MS)

    assert {key: repr(row) for key, row in rows.items()} == before


def model(
    stored: int, killer: bool, provisional: bool, statuses: list[int], is_runner: bool
) -> tuple[int, list[str]]:
    """The rules of statuses in a table, written without a look at the fold."""
    if not is_runner:
        return stored, ["not-the-runner" for _ in statuses]
    separate = []
    for status in statuses:
        ended = stored >= 3
        if status < 0 or (ended and status == stored and not provisional):
            separate.append("applied")
        elif ended and status < 3:
            separate.append("late")
        elif ended and not provisional and not (killer and (stored, status) == (5, 3)):
            separate.append("status-conflict")
        else:
            separate.append("applied")
            stored, killer, provisional = status, status == 5, False
    return stored, separate


@settings(max_examples=500, deadline=None)
@given(STATUSES, st.booleans(), st.booleans(), st.lists(STATUSES, max_size=8), st.booleans())
def test_statuses_follow_the_model(
    stored: int, killer: bool, provisional: bool, statuses: list[int], is_runner: bool
) -> None:
    provisional = provisional and stored == 4
    before = execution(
        status=stored,
        ended_by=SOURCE if killer and stored == 5 else None,
        ended_provisionally=provisional,
        may_set_status=is_runner,
    )

    result = folded(before, *(update(status=status) for status in statuses))

    expected = model(stored, killer and stored == 5, provisional, statuses, is_runner)
    assert (result.after()[before.execution_id].status, outcomes(result)) == expected


@settings(deadline=None)
@given(st.permutations(["RUNNING", "PAUSED", "COMPLETED", "KILLED", "FAILED"]), st.data())
def test_one_end_wins_whatever_is_doubled_or_late(order: list[str], data: st.DataObject) -> None:
    doubled = [s for s in order for _ in range(data.draw(st.integers(1, 2)))]

    result = folded(execution(), *(update(status=status) for status in doubled))

    ends = [s for s in doubled if s not in {"RUNNING", "PAUSED"}]
    expected = "COMPLETED" if ends[0] == "KILLED" and "COMPLETED" in ends else ends[0]
    assert result.after()[7].status == {"COMPLETED": 3, "FAILED": 4, "KILLED": 5}[expected]
