-- Rows of our own that have served their time. Nothing of Texera's is touched. Each purge takes a
-- bounded number of rows ($2) older than $1 seconds, and says how many those were.


-- name: try_purge
-- Held until the transaction ends: one replica purges at a time.
select pg_try_advisory_xact_lock(7080005) as is_ours;


-- name: purge_cursors
-- A spool that comes back after that begins a new epoch.
delete from cu_metadata.cursors
where ctid = any (array (
    select ctid from cu_metadata.cursors
    where updated_at < now() - make_interval(secs => $1)
    limit $2
    for update skip locked
));


-- name: purge_idempotency_keys
delete from cu_metadata.idempotency_keys
where ctid = any (array (
    select ctid from cu_metadata.idempotency_keys
    where created_at < now() - make_interval(secs => $1)
    order by created_at
    limit $2
    for update skip locked
));


-- name: purge_bindings
-- Only of executions that are gone, or that ended as long ago: a run may have taken longer than
-- that, and its sidecar still hold writes. With the last binding goes what was kept of the end,
-- and of a run that is gone its costs. Writes that come later still are refused as not-bound, and
-- the user's token may bind anew.
with old as (
    select binding.execution_id, binding.source_id, execution.status is null as is_gone
    from cu_metadata.bindings binding
    left join lateral (
        select status, coalesce(last_update_time, starting_time) as updated_at
        from texera_db.workflow_executions
        where eid = binding.execution_id
        limit 1
    ) execution on true
    where binding.created_at < now() - make_interval(secs => $1)
      and (
          execution.status is null
          or execution.status in (3, 4, 5)
              and execution.updated_at < (now() at time zone 'utc') - make_interval(secs => $1)
      )
    order by binding.created_at
    limit $2
    for update of binding skip locked
), ends as (
    delete from cu_metadata.terminal_statuses
    where execution_id = any (array (
        select old.execution_id
        from old
        left join lateral (
            select execution_id from cu_metadata.bindings
            where bindings.execution_id = old.execution_id and bindings.source_id <> old.source_id
            limit 1
        ) other on true
        where old.is_gone or other.execution_id is null
    ))
), costs as (
    delete from cu_metadata.operator_costs
    where execution_id = any (array (select execution_id from old where is_gone))
)
delete from cu_metadata.bindings
using old
where bindings.execution_id = old.execution_id and bindings.source_id = old.source_id;


-- name: purge_refusals
delete from cu_metadata.refusals
where id = any (array (
    select id from cu_metadata.refusals
    where refused_at < now() - make_interval(secs => $1)
    order by refused_at
    limit $2
    for update skip locked
));


-- name: purge_boots
-- A unit's current boot stays, however old it is.
delete from cu_metadata.boots
where ctid = any (array (
    select ctid from cu_metadata.boots
    where superseded_at < now() - make_interval(secs => $1)
    order by superseded_at
    limit $2
    for update skip locked
));


-- name: report
-- What there is, and since when. What is over its time by now is what the next purges take.
select 'cursors' as kind, count(*) as row_count, min(updated_at) as oldest_at
from cu_metadata.cursors
union all
select 'idempotency_keys', count(*), min(created_at) from cu_metadata.idempotency_keys
union all
select 'bindings', count(*), min(created_at) from cu_metadata.bindings
union all
select 'refusals', count(*), min(refused_at) from cu_metadata.refusals
union all
select 'boots', count(*), min(begun_at) from cu_metadata.boots
order by kind;
