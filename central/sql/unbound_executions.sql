-- Debris: open runs that no sidecar ever bound, from before there were any or from units without.
-- Only for the command: nothing but age and the state of the unit is known of them. It reads all
-- executions, part by part, so that no statement runs for long.


-- name: find_debris
-- Of the next part of all executions, in id order; the part's last id is in every row, and alone
-- in one if the part has no debris. No row: there are no more executions. $1 seconds since the
-- last update at least, $2 state of the unit or null, $3 computing unit or null, $4 ids after this
-- one, $5 how many executions the part has
with part as materialized (
    select eid, vid, uid, cuid, status, coalesce(last_update_time, starting_time) as updated_at
    from texera_db.workflow_executions
    where eid > $4
    order by eid
    limit $5
), debris as (
    select
        part.eid as execution_id,
        version.wid as workflow_id,
        part.uid as user_id,
        part.cuid as computing_unit_id,
        part.status as status_code,
        unit.state as unit_state,
        part.updated_at at time zone 'utc' as updated_at
    from part
    cross join lateral (
        select wid from texera_db.workflow_version where vid = part.vid limit 1
    ) version
    cross join lateral (
        select coalesce(
            (
                select case when terminate_time is null then 'running' else 'terminated' end
                from texera_db.workflow_computing_unit
                where cuid = part.cuid
            ),
            'none'
        ) as state
    ) unit
    left join lateral (
        select execution_id from cu_metadata.bindings
        where bindings.execution_id = part.eid
        limit 1
    ) binding on true
    where part.status not in (3, 4, 5)
      and part.updated_at <= (now() at time zone 'utc') - make_interval(secs => $1)
      and ($2::text is null or unit.state = $2)
      and ($3::int is null or part.cuid = $3)
      and binding.execution_id is null
)
select ended.last_id, debris.*
from (select max(eid) as last_id from part) ended
left join debris on true
where ended.last_id is not null
order by debris.execution_id;


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
