-- Bindings: which source may write to an execution, and for which user.


-- name: share_boot
-- Share-locks the boot under which the execution is about to be bound: a newer boot of the unit
-- waits for the commit, and then sees the binding. Locked before the execution's row, in the order
-- of `boots.register`. No row for an unknown boot.
-- $1 execution, $2 boot
select boot.superseded_at is not null as is_superseded
from cu_metadata.boots boot
join texera_db.workflow_executions execution
    on execution.cuid = boot.computing_unit_id
where execution.eid = $1 and boot.boot_id = $2
for share of boot;


-- name: lock_execution
-- Serializes two sidecars that bind. $1 execution
select from texera_db.workflow_executions where eid = $1 for no key update;


-- name: bindable_execution
-- The execution if the user may read it, with the facts that decide about a binding.
-- $1 execution, $2 user, $3 whether the caller reads everything, $4 source
select
    e.eid as execution_id, v.wid as workflow_id, e.cuid as computing_unit_id,
    e.uid as user_id, e.status as status_code,
    exists (
        select from cu_metadata.active_users where user_id = $2
    ) as is_active,
    own.source_id is not null as is_bound,
    own.may_set_status as is_runner,
    own.warehouse as bound_warehouse,
    (
        select count(*) from cu_metadata.bindings other
        where other.execution_id = e.eid
          and other.revoked_at is null
          and not other.may_set_status
    ) as late_binding_count,
    exists (
        select
        from cu_metadata.leases lease
        join cu_metadata.bindings other using (execution_id, source_id)
        where lease.execution_id = e.eid and lease.source_id <> $4
          and lease.expires_at > now() and other.revoked_at is null
    ) as is_leased_elsewhere
from texera_db.workflow_executions e
join texera_db.workflow_version v using (vid)
left join cu_metadata.bindings own
    on own.execution_id = e.eid and own.source_id = $4 and own.revoked_at is null
where e.eid = $1
  and ($3 or exists (
      select from cu_metadata.workflow_readers r
      where r.user_id = $2 and r.workflow_id = v.wid
  ));


-- name: take_over
-- The source becomes the runner: all others are revoked, and none of them may set a status when it
-- binds again after the end. $1 execution, $2 the new source, $3 its user
with taken as (
    update cu_metadata.bindings
    set may_set_status = false,
        revoked_at = coalesce(revoked_at, now()),
        revoked_reason = coalesce(revoked_reason, 'taken-over')
    where execution_id = $1 and source_id <> $2 and (may_set_status or revoked_at is null)
    returning source_id, computing_unit_id
)
insert into cu_metadata.audit_events
    (action, user_id, source_id, execution_id, computing_unit_id, detail)
select 'take-over', $3, $2, $1, computing_unit_id, source_id
from taken;


-- name: bind
-- Binds, also after a revocation. For an open execution the source becomes the runner, and gets a
-- lease or renews it. After the end the runner stays the runner, and any other is bound for the
-- fields that are not the status.
-- $1 execution, $2 source, $3 user, $4 workflow, $5 computing unit, $6 warehouse name or null,
-- $7 whether the execution is open, $8 lease in seconds, $9 boot or null
with binding as (
    insert into cu_metadata.bindings
        (execution_id, source_id, user_id, workflow_id, computing_unit_id, warehouse, boot_id,
         may_set_status)
    values ($1, $2, $3, $4, $5, $6, $9, $7)
    on conflict (execution_id, source_id) do update
    set user_id = excluded.user_id,
        boot_id = excluded.boot_id,
        may_set_status = bindings.may_set_status or excluded.may_set_status,
        created_at = now(),
        revoked_at = null,
        revoked_reason = null
    where bindings.revoked_at is not null or ($7 and not bindings.may_set_status)
    returning execution_id
), audited as (
    insert into cu_metadata.audit_events
        (action, user_id, source_id, execution_id, computing_unit_id)
    select 'bind', $3, $2, execution_id, $5 from binding
)
insert into cu_metadata.leases (execution_id, source_id, computing_unit_id, expires_at)
select $1, $2, $5, now() + make_interval(secs => $8) where $7
on conflict (execution_id) do update
set source_id = excluded.source_id, expires_at = excluded.expires_at;


-- name: open_bindings
-- The open executions that the source runs. $1 source, $2 minimal age in seconds
select b.execution_id, b.workflow_id, b.computing_unit_id, b.user_id, b.created_at
from cu_metadata.bindings b
cross join lateral (
    select eid from texera_db.workflow_executions
    where eid = b.execution_id and not cu_metadata.is_terminal(status)
    limit 1
) e
where b.source_id = $1 and b.revoked_at is null and b.may_set_status
  and b.created_at <= now() - make_interval(secs => $2)
order by b.execution_id;


-- name: live_run
-- The execution if the source runs it: it is open, the binding not revoked and the lease live.
-- $1 source, $2 execution
select
    b.user_id, b.computing_unit_id,
    exists (select from cu_metadata.active_users where user_id = b.user_id) as is_active
from cu_metadata.bindings b
join cu_metadata.leases using (execution_id, source_id)
join texera_db.workflow_executions e on e.eid = b.execution_id
where b.source_id = $1 and b.execution_id = $2
  and b.revoked_at is null and b.may_set_status
  and leases.expires_at > now()
  and not cu_metadata.is_terminal(e.status);


-- name: lock_abandoned
-- Locks those that are open and bound to the source; their bindings as well, so that no other
-- source takes over meanwhile. $1 source, $2 execution ids, $3 the only computing unit, or null for
-- any, $4 whether only executions bound at their creation are selected: both times are then of one
-- transaction
select e.eid as execution_id
from texera_db.workflow_executions e
join cu_metadata.bindings b on b.execution_id = e.eid
where e.eid = any ($2::int[])
  and not cu_metadata.is_terminal(e.status)
  and b.source_id = $1
  and b.revoked_at is null
  and b.may_set_status
  and ($3::int is null or b.computing_unit_id = $3)
  and (not $4 or e.starting_time = b.created_at at time zone 'utc')
order by e.eid
for update of e, b;


-- name: count_open_bindings
-- Bound, open executions are those with a lease. $1 user, $2 source
select
    (
        select count(*)
        from cu_metadata.bindings binding
        join cu_metadata.leases lease
            on lease.execution_id = binding.execution_id and lease.source_id = binding.source_id
        where binding.user_id = $1 and binding.revoked_at is null
    ) as of_user,
    (
        select count(*)
        from cu_metadata.bindings binding
        join cu_metadata.leases lease
            on lease.execution_id = binding.execution_id and lease.source_id = binding.source_id
        where binding.source_id = $2 and binding.revoked_at is null
    ) as of_source;


-- name: list_bindings
-- For an operator, newest first. A filter that is null selects everything.
-- $1 execution, $2 source, $3 user, $4 workflow, $5 computing unit,
-- $6 state: open (not revoked, the run unfinished), live (open, its lease live), revoked or all,
-- $7 limit
select
    binding.execution_id,
    binding.source_id,
    binding.user_id,
    binding.workflow_id,
    binding.computing_unit_id,
    execution.status as status_code,
    binding.may_set_status,
    binding.created_at,
    lease.expires_at as lease_expires_at,
    coalesce(lease.expires_at > now(), false) as lease_is_live,
    binding.revoked_at,
    binding.revoked_reason
from cu_metadata.bindings binding
left join texera_db.workflow_executions execution on execution.eid = binding.execution_id
left join cu_metadata.leases lease
    on lease.execution_id = binding.execution_id and lease.source_id = binding.source_id
where ($1::int is null or binding.execution_id = $1)
  and ($2::text is null or binding.source_id = $2)
  and ($3::int is null or binding.user_id = $3)
  and ($4::int is null or binding.workflow_id = $4)
  and ($5::int is null or binding.computing_unit_id = $5)
  and case $6::text
      when 'all' then true
      when 'revoked' then binding.revoked_at is not null
      else binding.revoked_at is null
          and not cu_metadata.is_terminal(execution.status)
          and ($6 = 'open' or lease.expires_at > now())
  end
order by binding.created_at desc, binding.execution_id desc
limit $7;


-- name: revoke_bindings
-- A batch that reads its facts before this commits is still applied. Filters as above.
-- $1 execution, $2 sources, $3 user, $4 workflow, $5 computing unit, $6 reason
with revoked as (
    update cu_metadata.bindings
    set revoked_at = now(), revoked_reason = $6
    where revoked_at is null
      and ($1::int is null or execution_id = $1)
      and ($2::text[] is null or source_id = any ($2))
      and ($3::int is null or user_id = $3)
      and ($4::int is null or workflow_id = $4)
      and ($5::int is null or computing_unit_id = $5)
    returning execution_id, source_id, user_id, computing_unit_id
), audited as (
    insert into cu_metadata.audit_events
        (action, source_id, execution_id, computing_unit_id, detail)
    select 'revoke', source_id, execution_id, computing_unit_id, $6 from revoked
)
select execution_id, source_id, user_id from revoked;
