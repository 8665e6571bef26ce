"""Records what Postgres stores, by triggers in the test's database.

Central stores the response to a batch in the transaction that applies it, so a trigger on the
cursors counts how often each entry was applied, by source, epoch and number. Whether a response is
true is checked against the rows: a second trigger records every value of an execution's `result`,
and each port's row is in its table or not.
"""

from dataclasses import dataclass
from typing import TypeAlias

import asyncpg

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"

_TRIGGERS = """
create table public.recorded_entries (
    position bigserial, source_id text, epoch text, seq bigint, outcome text
);
create table public.recorded_results (position bigserial, execution_id int, result text);

create function public.record_entries() returns trigger
language plpgsql security definer as $$
begin
    insert into public.recorded_entries (source_id, epoch, seq, outcome)
    select new.source_id, new.epoch, (outcome ->> 'seq')::bigint, outcome ->> 'outcome'
    from jsonb_array_elements(convert_from(new.response, 'UTF8')::jsonb -> 'outcomes')
        with ordinality as answered (outcome, ordinal)
    order by ordinal;
    return null;
end $$;
create trigger record_first_entries after insert on cu_metadata.cursors
for each row when (new.response <> '') execute function public.record_entries();
create trigger record_entries after update on cu_metadata.cursors
for each row when (new.response <> '' and new.source_id = old.source_id)
execute function public.record_entries();

create function public.record_results() returns trigger
language plpgsql security definer as $$
begin
    insert into public.recorded_results (execution_id, result) values (new.eid, new.result);
    return null;
end $$;
create trigger record_results after update on texera_db.workflow_executions
for each row when (new.result is distinct from old.result)
execute function public.record_results();
"""


@dataclass(frozen=True)
class Execution:
    """An execution's rows as they are at the end."""

    source_id: str
    status: int
    result: str | None
    ports: dict[str, tuple[str, int | None]]
    """By global port id: URI and size."""


@dataclass(frozen=True)
class Observations:
    """Everything that was recorded. A source stands for the keys that it was replaced by."""

    entries: list[tuple[str, str, int, str]]
    """Source, epoch, number and outcome of each entry, in the order of the commits."""
    results: dict[int, list[str]]
    """Each execution's values of `result`, oldest first."""
    executions: dict[int, Execution]


async def watch(connection: Connection) -> None:
    """Install the triggers. The connection is the tables' owner's."""
    await connection.execute(_TRIGGERS)


async def observe(connection: Connection, execution_ids: list[int]) -> Observations:
    entries = await connection.fetch(
        "select source_id, epoch, seq, outcome from public.recorded_entries order by position"
    )
    retired = await connection.fetch("select * from cu_metadata.retired_sources")
    successors = {row["source_id"]: row["successor_id"] for row in retired}

    def current(source_id: str) -> str:
        while source_id in successors:
            source_id = successors[source_id]
        return source_id

    results: dict[int, list[str]] = {}
    for row in await connection.fetch("select * from public.recorded_results order by position"):
        results.setdefault(row["execution_id"], []).append(row["result"])
    ports: dict[int, dict[str, tuple[str, int | None]]] = {}
    for row in await connection.fetch(
        "select workflow_execution_id, global_port_id, result_uri, result_size"
        " from texera_db.operator_port_executions where workflow_execution_id = any ($1::int[])",
        execution_ids,
    ):
        execution_id, port, uri, size = row.values()
        ports.setdefault(execution_id, {})[port] = (uri, size)
    rows = await connection.fetch(
        "select eid, source_id, status, result from texera_db.workflow_executions"
        " join cu_metadata.bindings on execution_id = eid where eid = any ($1::int[])",
        execution_ids,
    )
    executions = {
        row["eid"]: Execution(
            row["source_id"], row["status"], row["result"], ports.get(row["eid"], {})
        )
        for row in rows
    }
    applied = [(current(source_id), *rest) for source_id, *rest in entries]
    return Observations(applied, results, executions)
