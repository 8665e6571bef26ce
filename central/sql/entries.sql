-- The rows that entries change: locked, read, and written once per table.


-- name: lock_executions
-- $1 source, $2 execution ids, $3 the only computing unit or null for any. In id order, and only rows that the source may write to: nobody
-- holds up the executions of others. A row locked by someone else is left out.
--
-- FOR UPDATE answers the row's newest version, and keeps out the foreign key checks of inserts
-- into the child tables, so the URI rows read below stand still too. The lateral makes each id
-- one look-up by primary key: planned while the tables were small, a plain join would rescan
-- them for each id.
select
    execution.eid as execution_id,
    execution.status,
    binding.user_id,
    binding.workflow_id,
    binding.warehouse
from unnest($2::int[]) as asked (execution_id)
join texera_db.workflow_executions execution on execution.eid = asked.execution_id
join lateral (
    select
        user_id,
        workflow_id,
        warehouse,
        revoked_at is null
            and ($3::int is null or bindings.computing_unit_id = $3)
            and exists (
                select from cu_metadata.active_users writer
                where writer.user_id = bindings.user_id
            ) as is_writer
    from cu_metadata.bindings
    where bindings.execution_id = asked.execution_id and source_id = $1
    limit 1
) binding on binding.is_writer
order by execution.eid
for update of execution skip locked;


-- name: lock_execution
-- $1 source, $2 execution id, $3 computing unit or null. As above, but waits for a row that someone else has locked.
select
    execution.eid as execution_id,
    execution.status,
    binding.user_id,
    binding.workflow_id,
    binding.warehouse
from cu_metadata.bindings binding
join cu_metadata.active_users writer on writer.user_id = binding.user_id
join texera_db.workflow_executions execution on execution.eid = binding.execution_id
where binding.execution_id = $2
  and binding.source_id = $1
  and binding.revoked_at is null
  and ($3::int is null or binding.computing_unit_id = $3)
for update of execution;


-- name: read_standings
-- Why rows were not locked. $1 source, $2 execution ids, $3 computing unit or null. What the source
-- was never bound to is told alike whether it exists or not; no row for what it was bound to and
-- is gone.
select
    asked.execution_id,
    binding.user_id,
    binding.is_revoked,
    binding.is_elsewhere,
    binding.is_active
from unnest($2::int[]) as asked (execution_id)
left join lateral (
    select
        user_id,
        revoked_at is not null as is_revoked,
        $3::int is not null and bindings.computing_unit_id is distinct from $3 as is_elsewhere,
        exists (
            select from cu_metadata.active_users writer where writer.user_id = bindings.user_id
        ) as is_active
    from cu_metadata.bindings
    where bindings.execution_id = asked.execution_id and source_id = $1
    limit 1
) binding on true
left join texera_db.workflow_executions execution on execution.eid = asked.execution_id
where binding.user_id is null or execution.eid is not null;


-- name: read_endings
-- Who ended executions. $1 ids of locked rows. A statement after the locks, for a snapshot
-- that has what others committed just before the lock was granted.
select execution_id, status, source_id, provisional
from cu_metadata.terminal_statuses
where execution_id = any ($1::int[]);


-- name: read_registries
-- $1 ids of executions whose port results, $2 of those whose consoles are to be read
select
    'result' as registry,
    workflow_execution_id as execution_id,
    global_port_id as key,
    result_uri as uri,
    result_size as size_bytes
from unnest($1::int[]) as asked (execution_id)
join texera_db.operator_port_executions on workflow_execution_id = asked.execution_id
union all
select 'console', workflow_execution_id, operator_id, console_messages_uri, console_messages_size
from unnest($2::int[]) as asked (execution_id)
join texera_db.operator_executions on workflow_execution_id = asked.execution_id;


-- name: write_executions
-- $1 source; arrays, null where no entry named the column: $2 execution id, $3 status,
-- $4 its age in ms, $5 result, $6 whether log_location is named, $7 log_location,
-- $8 runtime_stats_uri, $9 its bytes, $10 name, $11 bookmarked
with change as (
    select *
    from unnest(
        $2::int[], $3::smallint[], $4::bigint[], $5::text[], $6::boolean[], $7::text[],
        $8::text[], $9::bigint[], $10::text[], $11::boolean[]
    ) as named (
        execution_id, status, status_age_ms, result, names_log_location, log_location,
        runtime_stats_uri, runtime_stats_bytes, name, bookmarked
    )
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
)
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
where execution.eid = change.execution_id;


-- name: delete_registry_rows
-- Arrays: $1 execution id and $2 global port id of results, $3 and $4 operator id of consoles
with deleted_results as (
    delete from texera_db.operator_port_executions port
    using unnest($1::int[], $2::text[]) as gone (execution_id, global_port_id)
    where port.workflow_execution_id = gone.execution_id
      and port.global_port_id = gone.global_port_id
)
delete from texera_db.operator_executions operator
using unnest($3::int[], $4::text[]) as gone (execution_id, operator_id)
where operator.workflow_execution_id = gone.execution_id
  and operator.operator_id = gone.operator_id;


-- name: write_results
-- Arrays: $1 execution id, $2 global port id, $3 URI (null: only the size is named), $4 bytes
with change as (
    select *
    from unnest($1::int[], $2::text[], $3::text[], $4::bigint[])
        as named (execution_id, global_port_id, uri, size_bytes)
), resized as (
    update texera_db.operator_port_executions port
    set result_size = change.size_bytes
    from change
    where change.uri is null
      and port.workflow_execution_id = change.execution_id
      and port.global_port_id = change.global_port_id
)
insert into texera_db.operator_port_executions
    (workflow_execution_id, global_port_id, result_uri, result_size)
select execution_id, global_port_id, uri, size_bytes
from change
where uri is not null
on conflict (workflow_execution_id, global_port_id) do update
set result_uri = excluded.result_uri, result_size = excluded.result_size;


-- name: write_consoles
-- Arrays: $1 execution id, $2 operator id, $3 URI (null: only the size is named), $4 bytes
with change as (
    select *
    from unnest($1::int[], $2::text[], $3::text[], $4::bigint[])
        as named (execution_id, operator_id, uri, size_bytes)
), resized as (
    update texera_db.operator_executions operator
    set console_messages_size = change.size_bytes
    from change
    where change.uri is null
      and operator.workflow_execution_id = change.execution_id
      and operator.operator_id = change.operator_id
)
insert into texera_db.operator_executions
    (workflow_execution_id, operator_id, console_messages_uri, console_messages_size)
select execution_id, operator_id, uri, size_bytes
from change
where uri is not null
on conflict (workflow_execution_id, operator_id) do update
set console_messages_uri = excluded.console_messages_uri,
    console_messages_size = excluded.console_messages_size;


-- name: write_operator_costs
-- Arrays: $1 execution id, $2 operators as JSON text
insert into cu_metadata.operator_costs (execution_id, operators)
select execution_id, operators::jsonb
from unnest($1::int[], $2::text[]) as named (execution_id, operators)
on conflict (execution_id) do update
set operators = excluded.operators, recorded_at = excluded.recorded_at;
