-- Orphans: open executions that nobody will end. Times are the database's. Leases and units are
-- found by index; leases are examined one by one only for units that ended or booted lately.


-- name: close_executions
-- The only statement that writes a provisional FAILED. $1 ids of executions that this transaction
-- has locked and found open, $2 the reason of each, $3 whether an operator closes them
with closing as (
    select * from unnest($1::int[], $2::text[]) as named (execution_id, reason)
), ending as (
    insert into cu_metadata.terminal_statuses (execution_id, status, provisional, reason)
    select execution_id, 4, true, reason
    from closing
    on conflict (execution_id) do update
    set status = excluded.status,
        source_id = null,
        provisional = true,
        reason = excluded.reason,
        recorded_at = excluded.recorded_at
), released as (
    delete from cu_metadata.leases
    where execution_id = any (array (select execution_id from closing))
), audited as (
    insert into cu_metadata.audit_events (action, execution_id, detail)
    select 'close', execution_id, reason
    from closing
    where $3
)
update texera_db.workflow_executions
set status = 4,
    last_update_time = greatest(last_update_time, now() at time zone 'utc')
where eid = any (array (select execution_id from closing));


-- name: try_closer_lock
-- Held until the transaction ends, so that one replica scans or closes at a time.
select pg_try_advisory_xact_lock(7080003) as is_locked;


-- name: drop_ended_leases
-- Deletes lapsed leases whose execution was ended or deleted by somebody else.
with ended as (
    select lease.execution_id
    from cu_metadata.leases lease
    left join lateral (
        select status from texera_db.workflow_executions
        where eid = lease.execution_id
        limit 1
    ) execution on true
    where lease.expires_at <= now()
      and (execution.status is null or cu_metadata.is_terminal(execution.status))
    for update of lease skip locked
)
delete from cu_metadata.leases
where execution_id = any (array (select execution_id from ended));


-- name: find_lapsed
-- Lapsed leases of open executions. `is_explained`: the unit was terminated; `is_terminated`: long
-- enough ago; `is_unclosable`: the database failed to close the execution since the lapse. $1 seconds since the termination, $2 computing unit or null for all
select
    lease.execution_id,
    unit.terminate_time is not null as is_explained,
    coalesce(
        unit.terminate_time <= (now() at time zone 'utc') - make_interval(secs => $1), false
    ) as is_terminated,
    coalesce(lease.close_failed_at >= lease.expires_at, false) as is_unclosable
from cu_metadata.leases lease
cross join lateral (
    select status from texera_db.workflow_executions
    where eid = lease.execution_id and not cu_metadata.is_terminal(status)
    limit 1
) execution
left join lateral (
    select terminate_time from texera_db.workflow_computing_unit
    where cuid = lease.computing_unit_id and terminate_time <= now() at time zone 'utc'
    limit 1
) unit on true
where lease.expires_at <= now()
  and ($2::int is null or lease.computing_unit_id = $2)
order by lease.execution_id;


-- name: count_overdue
-- Leases of open executions that have not lapsed but missed renewals, without those of terminated
-- units. Runs only if some have lapsed. $1 a lease that has at most these seconds left is overdue
select count(*) as overdue_count
from cu_metadata.leases lease
cross join lateral (
    select status from texera_db.workflow_executions
    where eid = lease.execution_id and not cu_metadata.is_terminal(status)
    limit 1
) execution
left join lateral (
    select terminate_time from texera_db.workflow_computing_unit
    where cuid = lease.computing_unit_id and terminate_time <= now() at time zone 'utc'
    limit 1
) unit on true
where lease.expires_at > now()
  and lease.expires_at <= now() + make_interval(secs => $1)
  and unit.terminate_time is null;


-- name: count_leases
-- Runs only if many leases are unexplained. Those that cannot be closed are left out, or else they
-- would make the unexplained ones look few. $1 count no further than this
select count(*) as lease_count
from (
    select from cu_metadata.leases
    where close_failed_at is null or close_failed_at < expires_at
    limit $1
) counted;


-- name: find_ended_units
-- Executions that their unit has ended, whatever their lease: bound under a superseded boot, or
-- before the current boot started, or the unit was terminated. `units` steps through the index of
-- leases to find the distinct units. $1 seconds since the termination, $2 maximal age of a boot in
-- seconds: its own call closed what it found.
with recursive units (computing_unit_id) as (
    (
        select computing_unit_id from cu_metadata.leases
        where computing_unit_id is not null
        order by computing_unit_id
        limit 1
    )
    union all
    select (
        select leases.computing_unit_id from cu_metadata.leases
        where leases.computing_unit_id > units.computing_unit_id
        order by leases.computing_unit_id
        limit 1
    )
    from units
    where units.computing_unit_id is not null
), events as (
    select
        units.computing_unit_id,
        boot.started_at,
        unit.terminate_time is not null as is_terminated
    from units
    left join lateral (
        select started_at from cu_metadata.boots
        where boots.computing_unit_id = units.computing_unit_id
          and superseded_at is null
          and started_at > now() - make_interval(secs => $2)
        limit 1
    ) boot on true
    left join lateral (
        select terminate_time from texera_db.workflow_computing_unit
        where cuid = units.computing_unit_id
          and terminate_time <= (now() at time zone 'utc') - make_interval(secs => $1)
        limit 1
    ) unit on true
    where boot.started_at is not null or unit.terminate_time is not null
)
select
    lease.execution_id,
    events.is_terminated
from events
cross join lateral (
    select execution_id, source_id from cu_metadata.leases
    where leases.computing_unit_id = events.computing_unit_id
    offset 0
) lease
left join lateral (
    select created_at, boot_id from cu_metadata.bindings
    where bindings.execution_id = lease.execution_id and bindings.source_id = lease.source_id
    limit 1
) binding on true
left join lateral (
    select superseded_at from cu_metadata.boots
    where boots.computing_unit_id = events.computing_unit_id and boots.boot_id = binding.boot_id
    limit 1
) own_boot on true
where events.is_terminated
   or own_boot.superseded_at is not null
   or (binding.boot_id is null and binding.created_at <= events.started_at)
order by lease.execution_id;


-- name: lock_orphans
-- Locks the orphans that are unchanged since the scan; rows locked by others are left for the next
-- pass. A lapsed lease counts only if renewals have been available for a lease until now, which is
-- checked again here because the process may have been stopped since the scan.
-- $1 execution ids, $2 whether each was found by its lapsed lease alone, $3 lease in seconds, or
-- null for an operator's override, $4 the longest gap between heartbeats in seconds
select found.execution_id
from unnest($1::int[], $2::boolean[]) as found (execution_id, is_lapsed)
left join cu_metadata.renewal_availability availability
    on available_since <= now() - make_interval(secs => $3::float8)
   and heartbeat_at between now() - make_interval(secs => $4) and now() + make_interval(secs => $4)
cross join lateral (
    select execution_id from cu_metadata.leases
    where leases.execution_id = found.execution_id
      and (not found.is_lapsed or expires_at <= now())
    limit 1
    for update skip locked
) lease
cross join lateral (
    select eid from texera_db.workflow_executions
    where eid = found.execution_id and not cu_metadata.is_terminal(status)
    limit 1
    for update skip locked
) execution
where not found.is_lapsed or $3::float8 is null or availability.only_row;


-- name: record_unclosable
-- $1 ids of executions that the database failed to close
update cu_metadata.leases
set close_failed_at = now()
where execution_id = any (array (select unnest($1::int[])));


-- name: find_unbound
-- Open executions that no sidecar ever bound, for the command: from before there were sidecars, or
-- of units without one. It reads all executions chunk by chunk, so that no statement runs long. The
-- chunk's last id is in every row, and alone in one row if nothing was found; no row at the end.
-- $1 minimal seconds since the last update, $2 state of the unit or null, $3 computing unit or null,
-- $4 last id of the previous chunk, $5 executions per chunk
with chunk as materialized (
    select eid, vid, uid, cuid, status, coalesce(last_update_time, starting_time) as updated_at
    from texera_db.workflow_executions
    where eid > $4
    order by eid
    limit $5
), unbound as (
    select
        chunk.eid as execution_id,
        version.wid as workflow_id,
        chunk.uid as user_id,
        chunk.cuid as computing_unit_id,
        chunk.status as status_code,
        unit.state as unit_state,
        chunk.updated_at at time zone 'utc' as updated_at
    from chunk
    cross join lateral (
        select wid from texera_db.workflow_version where vid = chunk.vid limit 1
    ) version
    cross join lateral (
        select coalesce(
            (
                select case when terminate_time is null then 'running' else 'terminated' end
                from texera_db.workflow_computing_unit
                where cuid = chunk.cuid
            ),
            'none'
        ) as state
    ) unit
    left join lateral (
        select execution_id from cu_metadata.bindings
        where bindings.execution_id = chunk.eid
        limit 1
    ) binding on true
    where not cu_metadata.is_terminal(chunk.status)
      and chunk.updated_at <= (now() at time zone 'utc') - make_interval(secs => $1)
      and ($2::text is null or unit.state = $2)
      and ($3::int is null or chunk.cuid = $3)
      and binding.execution_id is null
)
select ended.last_id, unbound.*
from (select max(eid) as last_id from chunk) ended
left join unbound on true
where ended.last_id is not null
order by unbound.execution_id;


-- name: lock_unbound
-- Those that are still open, as old and unbound; a row that is locked is in use. $1 execution ids,
-- $2 minimal seconds since the last update
select execution.eid as execution_id
from texera_db.workflow_executions execution
where execution.eid = any ($1::int[])
  and not cu_metadata.is_terminal(execution.status)
  and coalesce(execution.last_update_time, execution.starting_time)
      <= (now() at time zone 'utc') - make_interval(secs => $2)
  and not exists (
      select from cu_metadata.bindings where bindings.execution_id = execution.eid
  )
order by execution.eid
for update of execution skip locked;
