-- Debris: open runs that no sidecar ever bound, from before there were any or from units without.
-- Only for the command: nothing but age and the state of the unit is known of them, and it reads
-- the whole table of executions.


-- name: find_debris
-- In id order. $1 seconds since the last update at least, $2 state of the unit or null,
-- $3 computing unit or null, $4 ids after this one, $5 limit
select
    execution.eid as execution_id,
    version.wid as workflow_id,
    execution.uid as user_id,
    execution.cuid as computing_unit_id,
    execution.status as status_code,
    unit.state as unit_state,
    coalesce(execution.last_update_time, execution.starting_time) at time zone 'utc' as updated_at
from texera_db.workflow_executions execution
join texera_db.workflow_version version using (vid)
cross join lateral (
    select coalesce(
        (
            select case when terminate_time is null then 'running' else 'terminated' end
            from texera_db.workflow_computing_unit
            where cuid = execution.cuid
        ),
        'none'
    ) as state
) unit
where execution.eid > $4
  and execution.status not in (3, 4, 5)
  and coalesce(execution.last_update_time, execution.starting_time)
      <= (now() at time zone 'utc') - make_interval(secs => $1)
  and ($2::text is null or unit.state = $2)
  and ($3::int is null or execution.cuid = $3)
  and not exists (
      select from cu_metadata.bindings where bindings.execution_id = execution.eid
  )
order by execution.eid
limit $5;


-- name: lock_debris
-- Those that are still open, still as old and still unbound; what somebody else has locked is
-- not debris. $1 execution ids, $2 seconds since the last update at least
select execution.eid as execution_id
from texera_db.workflow_executions execution
where execution.eid = any ($1::int[])
  and execution.status not in (3, 4, 5)
  and coalesce(execution.last_update_time, execution.starting_time)
      <= (now() at time zone 'utc') - make_interval(secs => $2)
  and not exists (
      select from cu_metadata.bindings where bindings.execution_id = execution.eid
  )
order by execution.eid
for update of execution skip locked;
