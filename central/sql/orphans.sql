-- What the closer looks for. Moments are the database's; leases and units are found by index,
-- and only the leases of units that ended or booted lately are looked at one by one.


-- name: try_closer
-- Held until the transaction ends: one replica closes at a time.
select pg_try_advisory_xact_lock(7080003) as is_ours;


-- name: drop_ended_leases
-- Leases that lapsed because their execution has ended, or is gone, without the sidecar's word.
with ended as (
    select lease.execution_id
    from cu_metadata.leases lease
    left join lateral (
        select status from texera_db.workflow_executions
        where eid = lease.execution_id
        limit 1
    ) execution on true
    where lease.expires_at <= now()
      and (execution.status is null or execution.status in (3, 4, 5))
    for update of lease skip locked
)
delete from cu_metadata.leases
where execution_id = any (array (select execution_id from ended));


-- name: find_silent
-- Lapsed leases of open executions. `is_explained`: the unit was terminated, so nobody wonders.
-- $1 seconds for which a unit must have been terminated to be over, $2 computing unit or null
select
    lease.execution_id,
    unit.terminate_time is not null as is_explained,
    coalesce(
        unit.terminate_time <= (now() at time zone 'utc') - make_interval(secs => $1), false
    ) as is_terminated
from cu_metadata.leases lease
cross join lateral (
    select status from texera_db.workflow_executions
    where eid = lease.execution_id and status not in (3, 4, 5)
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
-- Leases of open executions that have not lapsed but should have been renewed long ago, unless
-- the unit was terminated. Only asked when some have lapsed. $1 seconds that are left of a lease
-- at most
select count(*) as overdue_count
from cu_metadata.leases lease
cross join lateral (
    select status from texera_db.workflow_executions
    where eid = lease.execution_id and status not in (3, 4, 5)
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
-- Only asked when more than a few are silent, and counted no further than $1.
select count(*) as lease_count from (select from cu_metadata.leases limit $1) counted;


-- name: find_ended_units
-- Runs whose unit says that they are over, whatever their lease: bound under a superseded boot,
-- or before the current one began; or the unit was terminated. The units that have leases are
-- found by stepping through the index. $1 seconds for which a unit must have been terminated,
-- $2 seconds for which a boot is worth looking at: its own call closed what it found.
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
        boot.begun_at,
        unit.terminate_time is not null as is_terminated
    from units
    left join lateral (
        select begun_at from cu_metadata.boots
        where boots.computing_unit_id = units.computing_unit_id
          and superseded_at is null
          and begun_at > now() - make_interval(secs => $2)
        limit 1
    ) boot on true
    left join lateral (
        select terminate_time from texera_db.workflow_computing_unit
        where cuid = units.computing_unit_id
          and terminate_time <= (now() at time zone 'utc') - make_interval(secs => $1)
        limit 1
    ) unit on true
    where boot.begun_at is not null or unit.terminate_time is not null
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
   or (binding.boot_id is null and binding.created_at <= events.begun_at)
order by lease.execution_id;


-- name: lock_orphans
-- Those of the found that are still what they were found to be. A row that someone else has
-- locked is left for the next pass. Silence is believed while renewals are served and have been for
-- a lease, which is asked again here: whoever looked may have been stopped since.
-- $1 execution ids, $2 whether each was found by its silence, $3 lease in seconds, or null to
-- believe silence at a human's word, $4 the longest break in seconds that is none
select found.execution_id
from unnest($1::int[], $2::boolean[]) as found (execution_id, is_silent)
left join cu_metadata.continuity
    on served_since <= now() - make_interval(secs => $3::float8)
   and beat_at between now() - make_interval(secs => $4) and now() + make_interval(secs => $4)
cross join lateral (
    select execution_id from cu_metadata.leases
    where leases.execution_id = found.execution_id
      and (not found.is_silent or expires_at <= now())
    limit 1
    for update skip locked
) lease
cross join lateral (
    select eid from texera_db.workflow_executions
    where eid = found.execution_id and status not in (3, 4, 5)
    limit 1
    for update skip locked
) execution
where not found.is_silent or $3::float8 is null or continuity.only_row;
