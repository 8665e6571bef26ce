-- Purges of old rows in `cu_metadata`; Texera's tables are not touched. Each deletes at most $2 rows
-- that are older than $1 seconds, the oldest first, without the $3 oldest.


-- name: try_purge_lock
-- Held until the transaction ends, so that one replica purges at a time.
select pg_try_advisory_xact_lock(7080005) as is_locked;


-- name: purge_cursors
-- A spool that returns later starts a new epoch; only if its first batch is the one whose response
-- was lost is that batch applied again. The cursors of a source that is bound to an open execution
-- are kept.
delete from cu_metadata.cursors
where ctid = any (array (
    select ctid from cu_metadata.cursors
    where updated_at < now() - make_interval(secs => $1)
      and not exists (
          select
          from cu_metadata.bindings binding
          join texera_db.workflow_executions execution on execution.eid = binding.execution_id
          where binding.source_id = cursors.source_id
            and binding.revoked_at is null
            and not cu_metadata.is_terminal(execution.status)
      )
    order by updated_at
    limit $2 offset $3
    for update skip locked
));


-- name: purge_idempotency_keys
delete from cu_metadata.idempotency_keys
where ctid = any (array (
    select ctid from cu_metadata.idempotency_keys
    where created_at < now() - make_interval(secs => $1)
    order by created_at
    limit $2 offset $3
    for update skip locked
));


-- name: purge_bindings
-- Only of executions that were deleted, or ended as long ago: a long run's sidecar may still hold
-- writes. The stored end is deleted with the last binding, the costs with those of a deleted
-- execution. Later writes are refused as not-bound; the user's token may bind again.
with old as (
    select binding.execution_id, binding.source_id, execution.status is null as is_deleted
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
          or cu_metadata.is_terminal(execution.status)
              and execution.updated_at < (now() at time zone 'utc') - make_interval(secs => $1)
      )
    order by binding.created_at
    limit $2 offset $3
    for update of binding skip locked
), ends as (
    delete from cu_metadata.terminal_statuses
    where execution_id = any (array (
        select old.execution_id
        from old
        left join lateral (
            select execution_id from cu_metadata.bindings
            where bindings.execution_id = old.execution_id
              and bindings.source_id not in (
                  select purged.source_id from old purged
                  where purged.execution_id = bindings.execution_id
              )
            limit 1
        ) other on true
        where old.is_deleted or other.execution_id is null
    ))
), costs as (
    delete from cu_metadata.operator_costs
    where execution_id = any (array (select execution_id from old where is_deleted))
)
delete from cu_metadata.bindings
using old
where bindings.execution_id = old.execution_id and bindings.source_id = old.source_id;


-- name: purge_refusals
with counted as (
    delete from cu_metadata.refusal_counts where hour < now() - make_interval(secs => $1)
)
delete from cu_metadata.refusals
where id = any (array (
    select id from cu_metadata.refusals
    where refused_at < now() - make_interval(secs => $1)
    order by refused_at
    limit $2 offset $3
    for update skip locked
));


-- name: purge_boots
-- A unit's current boot stays, however old it is.
delete from cu_metadata.boots
where ctid = any (array (
    select ctid from cu_metadata.boots
    where superseded_at < now() - make_interval(secs => $1)
    order by superseded_at
    limit $2 offset $3
    for update skip locked
));


-- name: purge_source_certificates
-- Of sources that are bound to nothing any more. One that is still used is pinned anew.
delete from cu_metadata.source_certificates
where ctid = any (array (
    select ctid from cu_metadata.source_certificates pinned
    where pinned_at < now() - make_interval(secs => $1)
      and not exists (
          select from cu_metadata.bindings where bindings.source_id = pinned.source_id
      )
    order by pinned_at
    limit $2 offset $3
    for update skip locked
));


-- name: report
-- Rows by kind, and the oldest of each.
select 'cursors' as kind, count(*) as row_count, min(updated_at) as oldest_at
from cu_metadata.cursors
union all
select 'idempotency_keys', count(*), min(created_at) from cu_metadata.idempotency_keys
union all
select 'bindings', count(*), min(created_at) from cu_metadata.bindings
union all
select 'refusals', count(*), min(refused_at) from cu_metadata.refusals
union all
select 'boots', count(*), min(started_at) from cu_metadata.boots
union all
select 'source_certificates', count(*), min(pinned_at) from cu_metadata.source_certificates
order by kind;
