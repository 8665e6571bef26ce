-- Entries: the rows that they change, locked, read and written.
--
-- `cu_metadata.writers` says whether a source may write to an execution. Every block that uses it
-- does so in a lateral with LIMIT, which makes each id one look-up by primary key: planned while the
-- tables were small, a plain join would scan them again for each id.


-- name: lock_executions
-- The ids that were locked, in id order: only executions that the source may write to, so that nobody
-- blocks those of others, and only rows that nobody else has locked. FOR UPDATE also blocks the
-- foreign key checks of inserts into the child tables, so that no URI rows are added meanwhile.
-- $1 source, $2 execution ids, $3 the only computing unit, or null for any
select execution.eid as execution_id
from unnest($2::int[]) as named (execution_id)
join texera_db.workflow_executions execution on execution.eid = named.execution_id
join lateral (
    select
        not is_revoked
        and is_active
        and ($3::int is null or computing_unit_id = $3) as is_writer
    from cu_metadata.writers
    where writers.execution_id = named.execution_id and source_id = $1
    limit 1
) writer on writer.is_writer
order by execution.eid
for update of execution skip locked;


-- name: lock_execution
-- As above for one execution, but waits for the lock. $1 source, $2 execution id, $3 computing unit
-- or null
select execution.eid as execution_id
from texera_db.workflow_executions execution
join cu_metadata.writers writer on writer.execution_id = execution.eid and writer.source_id = $1
where execution.eid = $2
  and not writer.is_revoked
  and writer.is_active
  and ($3::int is null or writer.computing_unit_id = $3)
for update of execution;


-- name: read_facts
-- Everything that the fold needs, in one snapshot. It runs after the locks, so that the snapshot has
-- what others committed before the locks were granted. One row per id:
-- - `user_id` is null if the source was never bound to the execution;
-- - `status` is null if the execution is deleted;
-- - `ended_by` and `ended_provisionally` belong to the stored status, and are null otherwise;
-- - registries are JSON objects by key, null if empty or not needed.
-- $1 source; arrays: $2 execution id, $3 whether its port results are needed, $4 its consoles
select
    named.execution_id,
    writer.user_id,
    writer.workflow_id,
    writer.computing_unit_id,
    writer.warehouse,
    writer.may_set_status,
    writer.is_revoked,
    writer.is_active,
    execution.status,
    ending.source_id as ended_by,
    ending.provisional as ended_provisionally,
    (
        select json_object_agg(
            port.global_port_id,
            json_build_object('uri', port.result_uri, 'size_bytes', port.result_size)
        )
        from texera_db.operator_port_executions port
        where named.needs_results and port.workflow_execution_id = named.execution_id
    ) as results,
    (
        select json_object_agg(
            operator.operator_id,
            json_build_object(
                'uri', operator.console_messages_uri, 'size_bytes', operator.console_messages_size
            )
        )
        from texera_db.operator_executions operator
        where named.needs_consoles and operator.workflow_execution_id = named.execution_id
    ) as consoles
from unnest($2::int[], $3::boolean[], $4::boolean[])
    as named (execution_id, needs_results, needs_consoles)
left join lateral (
    select * from cu_metadata.writers
    where writers.execution_id = named.execution_id and source_id = $1
    limit 1
) writer on true
left join lateral (
    select status from texera_db.workflow_executions
    where eid = named.execution_id
    limit 1
) execution on true
left join lateral (
    select source_id, provisional from cu_metadata.terminal_statuses
    where terminal_statuses.execution_id = named.execution_id
      and terminal_statuses.status = execution.status
    limit 1
) ending on true;


-- name: delete_registry_rows
-- Arrays: $1 execution id and $2 global port id of results, $3 and $4 operator id of consoles
with deleted_results as (
    delete from texera_db.operator_port_executions port
    using unnest($1::int[], $2::text[]) as deleted (execution_id, global_port_id)
    where port.workflow_execution_id = deleted.execution_id
      and port.global_port_id = deleted.global_port_id
)
delete from texera_db.operator_executions operator
using unnest($3::int[], $4::text[]) as deleted (execution_id, operator_id)
where operator.workflow_execution_id = deleted.execution_id
  and operator.operator_id = deleted.operator_id;


-- name: write_changes
-- Writes what a fold decided; both ways of `store/batches.py` run it. One row: `is_applied`.
--
-- @source_id
-- @is_locked: whether the caller holds the rows' locks and has read the facts (the locked way). If not
-- (the optimistic way), the statement takes the locks, checks the assumed facts, and changes nothing
-- unless all of them hold:
--   - the cursor of @epoch is at the batch before @batch; it is advanced, with @digest and @response
--   - the source runs each of @running_ids, of the computing unit @unit_id if that is not null; none
--     has ended, nobody else has locked any
--   - a URI is new, a size belongs to a stored row
-- In the locked way these are null, @running_ids is empty.
--
-- Arrays, one for each column; one that is null in every row may be empty instead.
-- Executions: @execution_id, @status, @status_age_ms, @result, @names_log_location (null sets nothing),
-- @log_location, @runtime_stats_uri, @runtime_stats_bytes, @name, @bookmarked; null sets nothing
-- Port results: @result_execution_id, @result_port_id, @result_uri (null: only the size of a stored
-- row is set), @result_bytes. Consoles: @console_execution_id, @console_operator_id, @console_uri
-- (likewise), @console_bytes
-- Costs: @costs_execution_id, @costs_operators as JSON text
--
-- The cursor is locked before the executions, because `locked` refers to it. A registry row that
-- another transaction stores between this statement's snapshot and its locks is noticed at the end:
-- fewer rows were written than named. Only an error undoes a statement, so one is raised by a text
-- that is no boolean; the caller goes the locked way.
--
-- `limit cardinality(...)` changes no result. Without it the planner expects ten elements of an array
-- whose value it does not know, and takes the plan for any values to be dearer than one for a lone
-- write: it would plan the statement anew for each batch, which takes longer than running it.
with cursor as materialized (
    select last_batch
    from cu_metadata.cursors
    where source_id = @source_id and epoch = @epoch and last_batch = @batch::bigint - 1
    for update
), locked as materialized (
    select execution.eid
    from (
        select execution_id
        from unnest(@running_ids::int[]) as named (execution_id)
        limit cardinality(@running_ids)
    ) named
    join texera_db.workflow_executions execution on execution.eid = named.execution_id
    join lateral (
        select
            not is_revoked
            and (@unit_id::int is null or computing_unit_id = @unit_id) as is_writer
        from cu_metadata.writers
        where writers.execution_id = named.execution_id and source_id = @source_id
        limit 1
    ) writer on writer.is_writer
    where exists (select from cursor)
      and not cu_metadata.is_terminal(execution.status)
    order by execution.eid
    for update of execution skip locked
), bound as materialized (
    -- The snapshot may be older than the locks. A row lock takes the newest version of the binding:
    -- a take-over that committed before the execution was locked is seen, a later one waits for it.
    -- The users' roles are read anew (`is_active_now`): the service may not lock their rows.
    select binding.execution_id, binding.user_id
    from locked
    cross join lateral (
        select execution_id, user_id from cu_metadata.bindings
        where bindings.execution_id = locked.eid
          and bindings.source_id = @source_id
          and bindings.revoked_at is null
          and bindings.may_set_status
        limit 1
        for share skip locked
    ) binding
), result_change as materialized (
    select *
    from unnest(
        @result_execution_id::int[], @result_port_id::text[], @result_uri::text[],
        @result_bytes::bigint[]
    ) as named (execution_id, global_port_id, uri, size_bytes)
    limit cardinality(@result_execution_id)
), console_change as materialized (
    select *
    from unnest(
        @console_execution_id::int[], @console_operator_id::text[], @console_uri::text[],
        @console_bytes::bigint[]
    ) as named (execution_id, operator_id, uri, size_bytes)
    limit cardinality(@console_execution_id)
), facts as materialized (
    select
        @is_locked::boolean
        or exists (select from cursor)
        and (select count(*) from bound) = cardinality(@running_ids::int[])
        and not exists (
            select from (select distinct user_id from bound) writer
            where not cu_metadata.is_active_now(writer.user_id)
        )
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
        ) as hold
), change as materialized (
    select *
    from unnest(
        @execution_id::int[], @status::smallint[], @status_age_ms::bigint[], @result::text[],
        @names_log_location::boolean[], @log_location::text[], @runtime_stats_uri::text[],
        @runtime_stats_bytes::bigint[], @name::text[], @bookmarked::boolean[]
    ) as named (
        execution_id, status, status_age_ms, result, names_log_location, log_location,
        runtime_stats_uri, runtime_stats_bytes, name, bookmarked
    )
    where (select hold from facts)
    limit cardinality(@execution_id)
), ending as (
    -- There is a row if the execution was ended before and has been reopened, or if its stored end
    -- gives way to this one. The source's own status is never provisional.
    insert into cu_metadata.terminal_statuses (execution_id, status, source_id)
    select change.execution_id, change.status, @source_id
    from change
    where cu_metadata.is_terminal(change.status)
    on conflict (execution_id) do update
    set status = excluded.status,
        source_id = excluded.source_id,
        provisional = false,
        reason = null,
        recorded_at = excluded.recorded_at
), lease_deleted as (
    delete from cu_metadata.leases
    where execution_id = any (array (
        select execution_id from change where cu_metadata.is_terminal(change.status)
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
    where uri is not null and (select hold from facts)
    on conflict (workflow_execution_id, global_port_id) do update
    set result_uri = excluded.result_uri, result_size = excluded.result_size
    where @is_locked
    returning 1
), result_resized as (
    update texera_db.operator_port_executions port
    set result_size = change.size_bytes
    from result_change change
    where change.uri is null
      and (select hold from facts)
      and port.workflow_execution_id = change.execution_id
      and port.global_port_id = change.global_port_id
    returning 1
), console_stored as (
    insert into texera_db.operator_executions
        (workflow_execution_id, operator_id, console_messages_uri, console_messages_size)
    select execution_id, operator_id, uri, size_bytes
    from console_change
    where uri is not null and (select hold from facts)
    on conflict (workflow_execution_id, operator_id) do update
    set console_messages_uri = excluded.console_messages_uri,
        console_messages_size = excluded.console_messages_size
    where @is_locked
    returning 1
), console_resized as (
    update texera_db.operator_executions operator
    set console_messages_size = change.size_bytes
    from console_change change
    where change.uri is null
      and (select hold from facts)
      and operator.workflow_execution_id = change.execution_id
      and operator.operator_id = change.operator_id
    returning 1
), costs_written as (
    insert into cu_metadata.operator_costs (execution_id, operators)
    select execution_id, operators::jsonb
    from unnest(@costs_execution_id::int[], @costs_operators::text[])
        as named (execution_id, operators)
    where (select hold from facts)
    limit cardinality(@costs_execution_id)
    on conflict (execution_id) do update
    set operators = excluded.operators, recorded_at = excluded.recorded_at
), cursor_advanced as (
    update cu_metadata.cursors
    set last_batch = @batch, digest = @digest, response = @response, updated_at = now()
    where source_id = @source_id and epoch = @epoch and (select hold from facts)
), registry_rows as (
    select
        (select count(*) from result_change) + (select count(*) from console_change)
        - (select count(*) from result_stored) - (select count(*) from result_resized)
        - (select count(*) from console_stored) - (select count(*) from console_resized)
            as unwritten_count
)
select
    case
        when not facts.hold then false
        when @is_locked or (select unwritten_count = 0 from registry_rows) then true
        else format(
            'another transaction has stored %s of these registry rows',
            (select unwritten_count from registry_rows)
        )::boolean
    end as is_applied
from facts;
