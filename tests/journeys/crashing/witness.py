"""What Postgres saw: triggers in the test's database that the services know nothing of.

Central stores the answer to a batch in the transaction that applies it, so a trigger on the
cursors can count how often each entry was applied, by source, epoch and number. That an answer
tells the truth is for the rows themselves to say: a second trigger keeps every value that an
execution's `result` ever had, and each port's row is in its table or is not.
"""

from dataclasses import dataclass
from typing import TypeAlias

import asyncpg

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"

_TRIGGERS = """
create table public.witnessed_entries (
    position bigserial, source_id text, epoch text, seq bigint, outcome text
);
create table public.witnessed_results (position bigserial, execution_id int, result text);

create function public.witness_entries() returns trigger
language plpgsql security definer as $$
begin
    insert into public.witnessed_entries (source_id, epoch, seq, outcome)
    select new.source_id, new.epoch, (outcome ->> 'seq')::bigint, outcome ->> 'outcome'
    from jsonb_array_elements(convert_from(new.answer, 'UTF8')::jsonb -> 'outcomes')
        with ordinality as answered (outcome, ordinal)
    order by ordinal;
    return null;
end $$;
create trigger witness_entries after insert or update on cu_metadata.cursors
for each row when (new.answer <> '') execute function public.witness_entries();

create function public.witness_results() returns trigger
language plpgsql security definer as $$
begin
    insert into public.witnessed_results (execution_id, result) values (new.eid, new.result);
    return null;
end $$;
create trigger witness_results after update on texera_db.workflow_executions
for each row when (new.result is distinct from old.result)
execute function public.witness_results();
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
    """Everything the database can say."""

    entries: list[tuple[str, str, int, str]]
    """Source, epoch, number and outcome of each entry answered, in the order of the commits."""
    results: dict[int, list[str]]
    """Each execution's values of `result`, oldest first."""
    executions: dict[int, Execution]


async def watch(connection: Connection) -> None:
    """From now on everything is seen. The connection is the tables' owner's."""
    await connection.execute(_TRIGGERS)


async def observe(connection: Connection, execution_ids: list[int]) -> Observations:
    entries = await connection.fetch(
        "select source_id, epoch, seq, outcome from public.witnessed_entries order by position"
    )
    results: dict[int, list[str]] = {}
    for row in await connection.fetch("select * from public.witnessed_results order by position"):
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
    return Observations([tuple(row.values()) for row in entries], results, executions)
