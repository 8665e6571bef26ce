-- Expired executions: ended ones of one computing unit that still refer to results or logs.


-- name: expired_executions
-- Oldest first; one row of nulls if there are none. `unit_privilege` and `unit_exists` judge the
-- caller. The clock is the database's.
-- $1 computing unit, $2 user, $3 seconds since the last update, $4 limit
select
    (
        select g.privilege from cu_metadata.computing_unit_grants g
        where g.user_id = $2 and g.computing_unit_id = $1
    ) as unit_privilege,
    exists (
        select from texera_db.workflow_computing_unit u where u.cuid = $1
    ) as unit_exists,
    e.eid as execution_id, e.wid as workflow_id, e.vid as version_id,
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
from (select) as always
left join lateral (
    select run.*, v.wid
    from texera_db.workflow_executions run
    join texera_db.workflow_version v using (vid)
    where run.cuid = $1
      and cu_metadata.is_terminal(run.status)
      and coalesce(run.last_update_time, run.starting_time)
          < (now() at time zone 'utc') - make_interval(secs => $3)
      and (run.result <> '' or run.log_location <> '')
    order by run.eid
    limit $4
) e on true
order by e.eid;


-- name: clear_expired
-- All or none; the columns up to `open_id` say why none was. The status is unchanged.
-- $1 computing unit, $2 user, $3 execution ids
with known as (
    select run.eid, run.status
    from texera_db.workflow_executions run
    where run.eid = any ($3::int[]) and run.cuid = $1
), checks as (
    select
        exists (
            select from cu_metadata.active_users where user_id = $2
        ) as is_active,
        (
            select g.privilege from cu_metadata.computing_unit_grants g
            where g.user_id = $2 and g.computing_unit_id = $1
        ) as unit_privilege,
        exists (
            select from texera_db.workflow_computing_unit u where u.cuid = $1
        ) as unit_exists,
        (
            select min(requested.eid) from unnest($3::int[]) requested (eid)
            where requested.eid not in (select known.eid from known)
        ) as missing_id,
        (
            select min(known.eid) from known where not cu_metadata.is_terminal(known.status)
        ) as open_id
), locked as (
    select run.eid
    from texera_db.workflow_executions run
    join known using (eid)
    join checks
        on is_active and unit_privilege = 'WRITE' and missing_id is null and open_id is null
    order by run.eid
    for no key update of run
), cleared as (
    update texera_db.workflow_executions run
    set result = '', log_location = null
    from locked
    where run.eid = locked.eid
    returning run.eid
)
select checks.*, cleared.eid as execution_id
from checks
left join cleared on true
order by cleared.eid;
