-- A whole batch in one statement, on the assumption that nothing stands against it.


-- name: apply_as_expected
-- One row: whether the assumption held. If it did not, nothing was changed.
-- The spool: $1 source, $2 epoch, $3 batch (it follows the one applied last), $4 digest, $5 the
-- answer's bytes. $6 ids of all executions that entries name: each is writable by the source,
-- has not ended, and is locked by nobody else.
-- Arrays, null where no entry named the column: $7 execution id, $8 status, $9 its age in ms,
-- $10 result, $11 whether log_location is named, $12 log_location, $13 runtime_stats_uri,
-- $14 its bytes, $15 name, $16 bookmarked.
-- Results, arrays: $17 execution id, $18 global port id, $19 URI (there is no such row yet; null:
-- there is, and its size is set), $20 bytes. Consoles, likewise: $21, $22 operator id, $23, $24.
-- Costs, arrays: $25 execution id, $26 operators as JSON text.
-- $27 the only computing unit whose executions may be written to, or null for any.
--
-- The cursor is locked before anything else, because `held` asks for it. Child rows stand still
-- once their execution is locked; one that came between this statement's snapshot and its lock is
-- met by the last select, which undoes all of it by dividing by zero.
with cursor as materialized (
    select last_batch
    from cu_metadata.cursors
    where source_id = $1 and epoch = $2 and last_batch = $3::bigint - 1
    for update
), held as materialized (
    select execution.eid
    from unnest($6::int[]) as asked (execution_id)
    join texera_db.workflow_executions execution on execution.eid = asked.execution_id
    join lateral (
        select
            revoked_at is null
                and ($27::int is null or bindings.computing_unit_id = $27)
                and exists (
                    select from cu_metadata.active_users writer
                    where writer.user_id = bindings.user_id
                ) as is_writer
        from cu_metadata.bindings
        where bindings.execution_id = asked.execution_id and source_id = $1
        limit 1
    ) binding on binding.is_writer
    where exists (select from cursor)
      and execution.status not in (3, 4, 5)
    order by execution.eid
    for update of execution skip locked
), result_change as materialized (
    select *
    from unnest($17::int[], $18::text[], $19::text[], $20::bigint[])
        as named (execution_id, global_port_id, uri, size_bytes)
), console_change as materialized (
    select *
    from unnest($21::int[], $22::text[], $23::text[], $24::bigint[])
        as named (execution_id, operator_id, uri, size_bytes)
), expected as materialized (
    select
        exists (select from cursor)
        and (select count(*) from held) = cardinality($6::int[])
        and not exists (
            select from result_change change
            left join texera_db.operator_port_executions port
                on port.workflow_execution_id = change.execution_id
               and port.global_port_id = change.global_port_id
            where (change.uri is null) = (port.workflow_execution_id is null)
        )
        and not exists (
            select from console_change change
            left join texera_db.operator_executions operator
                on operator.workflow_execution_id = change.execution_id
               and operator.operator_id = change.operator_id
            where (change.uri is null) = (operator.workflow_execution_id is null)
        ) as holds
), change as materialized (
    select *
    from unnest(
        $7::int[], $8::smallint[], $9::bigint[], $10::text[], $11::boolean[], $12::text[],
        $13::text[], $14::bigint[], $15::text[], $16::boolean[]
    ) as named (
        execution_id, status, status_age_ms, result, names_log_location, log_location,
        runtime_stats_uri, runtime_stats_bytes, name, bookmarked
    )
    where (select holds from expected)
), ending as (
    insert into cu_metadata.terminal_statuses (execution_id, status, source_id)
    select change.execution_id, change.status, $1
    from change
    where change.status in (3, 4, 5)
    on conflict (execution_id) do update
    set status = excluded.status,
        source_id = excluded.source_id,
        provisional = false,
        reason = null,
        recorded_at = excluded.recorded_at
), released as (
    delete from cu_metadata.leases
    where execution_id = any (array (
        select execution_id from change where change.status in (3, 4, 5)
    ))
), execution_written as (
    update texera_db.workflow_executions execution
    set status = coalesce(change.status, execution.status),
        last_update_time = greatest(
            execution.last_update_time,
            (now() at time zone 'utc') - make_interval(secs => change.status_age_ms / 1000.0)
        ),
        result = coalesce(change.result, execution.result),
        log_location = case
            when change.names_log_location then change.log_location
            else execution.log_location
        end,
        runtime_stats_uri = coalesce(change.runtime_stats_uri, execution.runtime_stats_uri),
        runtime_stats_size = coalesce(change.runtime_stats_bytes, execution.runtime_stats_size),
        name = coalesce(change.name, execution.name),
        bookmarked = coalesce(change.bookmarked, execution.bookmarked)
    from change
    where execution.eid = change.execution_id
), result_stored as (
    insert into texera_db.operator_port_executions
        (workflow_execution_id, global_port_id, result_uri, result_size)
    select execution_id, global_port_id, uri, size_bytes
    from result_change
    where uri is not null and (select holds from expected)
    on conflict (workflow_execution_id, global_port_id) do nothing
    returning 1
), result_resized as (
    update texera_db.operator_port_executions port
    set result_size = change.size_bytes
    from result_change change
    where change.uri is null
      and (select holds from expected)
      and port.workflow_execution_id = change.execution_id
      and port.global_port_id = change.global_port_id
    returning 1
), console_stored as (
    insert into texera_db.operator_executions
        (workflow_execution_id, operator_id, console_messages_uri, console_messages_size)
    select execution_id, operator_id, uri, size_bytes
    from console_change
    where uri is not null and (select holds from expected)
    on conflict (workflow_execution_id, operator_id) do nothing
    returning 1
), console_resized as (
    update texera_db.operator_executions operator
    set console_messages_size = change.size_bytes
    from console_change change
    where change.uri is null
      and (select holds from expected)
      and operator.workflow_execution_id = change.execution_id
      and operator.operator_id = change.operator_id
    returning 1
), costs_written as (
    insert into cu_metadata.operator_costs (execution_id, operators)
    select execution_id, operators::jsonb
    from unnest($25::int[], $26::text[]) as named (execution_id, operators)
    where (select holds from expected)
    on conflict (execution_id) do update
    set operators = excluded.operators, recorded_at = excluded.recorded_at
), advanced as (
    update cu_metadata.cursors
    set last_batch = $3, digest = $4, answer = $5, updated_at = now()
    where source_id = $1 and epoch = $2 and (select holds from expected)
)
select
    expected.holds
    and 1 / (
        case
            when (select count(*) from result_stored) + (select count(*) from result_resized)
                + (select count(*) from console_stored) + (select count(*) from console_resized)
                = (select count(*) from result_change) + (select count(*) from console_change)
                then 1
            else 0
        end
    ) = 1 as holds
from expected;
