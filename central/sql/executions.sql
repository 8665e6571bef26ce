-- Executions and the versions of workflows that they belong to. A workflow that was never saved has
-- no version; its first execution makes one with the content `[]`, as Texera does.


-- name: latest_version
-- A null if there is none, no row if the caller may not read the workflow.
-- $1 workflow, $2 user, $3 whether the caller reads everything
select (select max(v.vid) from texera_db.workflow_version v where v.wid = w.wid) as version_id
from texera_db.workflow w
where w.wid = $1
  and ($3 or exists (
      select from cu_metadata.workflow_readers r
      where r.user_id = $2 and r.workflow_id = w.wid
  ));


-- name: lock_versions
-- Held until the transaction ends, so that two first executions make one version. The first key is
-- any fixed number; $1 workflow
select pg_advisory_xact_lock(7080002, $1);


-- name: create_first_version
-- $1 workflow
insert into texera_db.workflow_version (wid, content)
select $1, '[]'
where not exists (select from texera_db.workflow_version where wid = $1);


-- name: create_execution
-- Checks the caller, inserts the execution at the workflow's latest version, binds it to its source
-- and starts its lease. The columns up to `version_id` say why `execution_id` is null. To run
-- something, an ADMIN needs the same grants as anyone. The boot's row is share-locked until the
-- commit: a newer boot of the unit waits, and then sees the binding.
-- $1 user, $2 workflow, $3 computing unit, $4 name, $5 environment version, $6 source,
-- $7 lease in seconds, $8 boot or null
with boot as (
    select boot_id, superseded_at
    from cu_metadata.boots
    where computing_unit_id = $3
      and (boot_id = $8 or ($8::text is null and superseded_at is null))
    for share
), permission as (
    select
        exists (
            select from cu_metadata.active_users where user_id = $1
        ) as is_active,
        exists (
            select from texera_db.workflow where wid = $2
        ) as workflow_exists,
        exists (
            select from cu_metadata.workflow_readers where user_id = $1 and workflow_id = $2
        ) as reads_workflow,
        (
            select g.privilege from cu_metadata.computing_unit_grants g
            where g.user_id = $1 and g.computing_unit_id = $3
        ) as unit_privilege,
        exists (
            select from texera_db.workflow_computing_unit u where u.cuid = $3
        ) as unit_exists,
        exists (
            select from texera_db.workflow_computing_unit u
            where u.cuid = $3 and u.terminate_time is not null
        ) as unit_is_terminated,
        exists (
            select from boot where superseded_at is not null
        ) as boot_is_superseded,
        (
            select max(v.vid) from texera_db.workflow_version v where v.wid = $2
        ) as version_id
), execution as (
    insert into texera_db.workflow_executions
        (vid, uid, cuid, status, starting_time, name, environment_version)
    select version_id, $1, $3, 0, now() at time zone 'utc', $4, $5
    from permission
    where is_active and reads_workflow and unit_privilege = 'WRITE'
      and not unit_is_terminated and not boot_is_superseded and version_id is not null
    returning eid, starting_time
), binding as (
    insert into cu_metadata.bindings
        (execution_id, source_id, user_id, workflow_id, computing_unit_id, boot_id)
    select eid, $6, $1, $2, $3, (select boot_id from boot where boot_id = $8) from execution
), lease as (
    insert into cu_metadata.leases (execution_id, source_id, computing_unit_id, expires_at)
    select eid, $6, $3, now() + make_interval(secs => $7) from execution
), audited as (
    insert into cu_metadata.audit_events
        (action, user_id, source_id, execution_id, computing_unit_id)
    select 'create', $1, $6, eid, $3 from execution
)
select
    permission.*,
    execution.eid as execution_id,
    execution.starting_time at time zone 'utc' as started_at
from permission
left join execution on true;


-- name: set_warehouse
-- Only if the schema has the column. $1 execution, $2 warehouse
update texera_db.workflow_executions set whid = $2 where eid = $1;


-- name: set_binding_warehouse
-- $1 execution, $2 source, $3 warehouse name
update cu_metadata.bindings set warehouse = $3 where execution_id = $1 and source_id = $2;


-- name: read_execution
-- $1 execution, $2 user, $3 whether the caller reads everything, $4 its workflow or null
select
    e.eid as execution_id, v.wid as workflow_id, e.vid as version_id,
    e.cuid as computing_unit_id, e.uid as user_id, e.status as status_code, e.result, e.name,
    coalesce(e.bookmarked, false) as bookmarked, e.environment_version, e.log_location,
    e.runtime_stats_uri, coalesce(e.runtime_stats_size, 0) as runtime_stats_bytes,
    e.starting_time at time zone 'utc' as started_at,
    e.last_update_time at time zone 'utc' as updated_at,
    e.status = 4 and coalesce(
        (
            select ending.provisional from cu_metadata.terminal_statuses ending
            where ending.execution_id = e.eid and ending.status = e.status
        ),
        false
    ) as provisional
from texera_db.workflow_executions e
join texera_db.workflow_version v using (vid)
where e.eid = $1
  and ($4::int is null or v.wid = $4)
  and ($3 or exists (
      select from cu_metadata.workflow_readers r
      where r.user_id = $2 and r.workflow_id = v.wid
  ));


-- name: list_executions
-- The workflow's executions, newest first; one row of nulls if it has none, no row if the caller may
-- not read it. The latest execution is a list of one.
-- $1 workflow, $2 user, $3 whether the caller reads everything,
-- $4 computing unit or null, $5 status codes or null, $6 older than this execution or null,
-- $7 limit, $8 whether only runs of the workflow's writers and of the caller are selected
select
    e.eid as execution_id, w.wid as workflow_id, e.vid as version_id,
    e.cuid as computing_unit_id, e.uid as user_id, e.status as status_code, e.result, e.name,
    coalesce(e.bookmarked, false) as bookmarked, e.environment_version, e.log_location,
    e.runtime_stats_uri, coalesce(e.runtime_stats_size, 0) as runtime_stats_bytes,
    e.starting_time at time zone 'utc' as started_at,
    e.last_update_time at time zone 'utc' as updated_at,
    e.status = 4 and coalesce(
        (
            select ending.provisional from cu_metadata.terminal_statuses ending
            where ending.execution_id = e.eid and ending.status = e.status
        ),
        false
    ) as provisional
from texera_db.workflow w
left join lateral (
    select run.*
    from texera_db.workflow_version v
    join texera_db.workflow_executions run using (vid)
    where v.wid = w.wid
      and ($4::int is null or run.cuid = $4)
      and ($5::smallint[] is null or run.status = any ($5))
      and ($6::int is null or run.eid < $6)
      and (
          not $8::boolean
          or run.uid = $2
          or run.uid = any (array (
              select writer.user_id from cu_metadata.workflow_grants writer
              where writer.workflow_id = w.wid and writer.privilege = 'WRITE'
          ))
      )
    order by run.eid desc
    limit $7
) e on true
where w.wid = $1
  and ($3 or exists (
      select from cu_metadata.workflow_readers r
      where r.user_id = $2 and r.workflow_id = w.wid
  ))
order by e.eid desc;
