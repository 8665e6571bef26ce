-- Boots: which master process a computing unit is running, and what its predecessors left open.


-- name: unit_standing
-- What the caller may do with the unit. $1 user, $2 computing unit
select
    exists (
        select from cu_metadata.active_users where user_id = $1
    ) as is_active,
    (
        select g.privilege from cu_metadata.computing_unit_grants g
        where g.user_id = $1 and g.computing_unit_id = $2
    ) as privilege,
    exists (
        select from texera_db.workflow_computing_unit where cuid = $2
    ) as unit_exists;


-- name: lock_unit
-- Boots of one unit come one after the other. The first key is any fixed number; $1 unit.
select pg_advisory_xact_lock(7080004, $1);


-- name: find_boot
-- $1 computing unit, $2 boot
select superseded_at is not null as is_superseded, closed
from cu_metadata.boots
where computing_unit_id = $1 and boot_id = $2;


-- name: supersede
-- Waits for bindings under way (they hold the row, `share_boot`). $1 computing unit
update cu_metadata.boots
set superseded_at = now()
where computing_unit_id = $1 and superseded_at is null;


-- name: begin_boot
-- $1 computing unit, $2 boot, $3 source
insert into cu_metadata.boots (computing_unit_id, boot_id, source_id) values ($1, $2, $3);


-- name: lock_earlier_runs
-- The unit's open runs that are not bound under this boot. What no sidecar ever bound has no
-- lease and is not among them. $1 computing unit, $2 boot
select execution.eid as execution_id
from cu_metadata.leases lease
join texera_db.workflow_executions execution on execution.eid = lease.execution_id
where lease.computing_unit_id = $1
  and execution.status not in (3, 4, 5)
  and not exists (
      select from cu_metadata.bindings binding
      where binding.execution_id = lease.execution_id
        and binding.source_id = lease.source_id
        and binding.boot_id = $2
  )
order by execution.eid
for update of execution;


-- name: store_closed
-- The boot's moment is the clock's now, not the transaction's: what was bound without a boot
-- while this call ran is then older than the boot. $1 computing unit, $2 boot, $3 ids of the
-- executions it ended
update cu_metadata.boots
set closed = $3, begun_at = clock_timestamp()
where computing_unit_id = $1 and boot_id = $2;
