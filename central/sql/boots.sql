-- Boots: the current master process of each computing unit, and what earlier ones left open.


-- name: unit_access
-- What the caller may do with the unit, and whether the source speaks for its master process: it
-- registered the current boot, or there is none and all leases of the unit are its own. One row.
-- $1 user, $2 computing unit, $3 source
select
    exists (
        select from cu_metadata.active_users where user_id = $1
    ) as is_active,
    (
        select g.privilege from cu_metadata.computing_unit_grants g
        where g.user_id = $1 and g.computing_unit_id = $2
    ) as unit_privilege,
    exists (
        select from texera_db.workflow_computing_unit where cuid = $2
    ) as unit_exists,
    exists (
        select from cu_metadata.computing_unit_grants g
        where g.user_id = $1 and g.computing_unit_id = $2 and g.is_owner
    ) as is_owner,
    coalesce(
        (
            select boot.source_id = $3 from cu_metadata.boots boot
            where boot.computing_unit_id = $2 and boot.superseded_at is null
        ),
        (
            select bool_and(lease.source_id = $3) from cu_metadata.leases lease
            where lease.computing_unit_id = $2 and lease.expires_at > now()
        ),
        false
    ) as source_holds_unit;


-- name: lock_unit
-- Serializes boots of one unit. The first key is any fixed number; $1 computing unit
select pg_advisory_xact_lock(7080004, $1);


-- name: find_boot
-- $1 computing unit, $2 boot
select superseded_at is not null as is_superseded, closed
from cu_metadata.boots
where computing_unit_id = $1 and boot_id = $2;


-- name: supersede
-- Waits for bindings in progress, which share-lock the row (`share_boot`). $1 computing unit
update cu_metadata.boots
set superseded_at = now()
where computing_unit_id = $1 and superseded_at is null;


-- name: insert_boot
-- $1 computing unit, $2 boot, $3 source, $4 user
with boot as (
    insert into cu_metadata.boots (computing_unit_id, boot_id, source_id) values ($1, $2, $3)
)
insert into cu_metadata.audit_events (action, user_id, source_id, computing_unit_id, detail)
values ('boot', $4, $3, $1, $2);


-- name: lock_earlier_runs
-- Locks the unit's open executions that are bound under no or another boot. Those that no sidecar
-- ever bound have no lease and are left alone. $1 computing unit, $2 boot
select execution.eid as execution_id
from cu_metadata.leases lease
join texera_db.workflow_executions execution on execution.eid = lease.execution_id
where lease.computing_unit_id = $1
  and not cu_metadata.is_terminal(execution.status)
  and not exists (
      select from cu_metadata.bindings binding
      where binding.execution_id = lease.execution_id
        and binding.source_id = lease.source_id
        and binding.boot_id = $2
  )
order by execution.eid
for update of execution;


-- name: store_closed
-- `clock_timestamp`, not `now`: an execution bound without a boot while this transaction ran must
-- be older than the boot. $1 computing unit, $2 boot, $3 ids of the executions that it closed
update cu_metadata.boots
set closed = $3, started_at = clock_timestamp()
where computing_unit_id = $1 and boot_id = $2;
