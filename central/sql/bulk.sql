-- Bulk calls: the executions that a user has selected, deleted or bookmarked, all or none.


-- name: lock_selected
-- In id order, and only what the caller may delete: nobody blocks the executions of others. FOR UPDATE
-- also blocks inserts of URIs, by their foreign keys.
-- $1 user, $2 workflow, $3 execution ids
select
from texera_db.workflow_executions run
join texera_db.workflow_version v using (vid)
where run.eid = any ($3::int[]) and v.wid = $2 and run.uid = $1
  and exists (select from cu_metadata.active_users where user_id = $1)
order by run.eid
for update of run;


-- name: delete_executions
-- The columns up to `foreign_id` say why nothing was deleted; otherwise one row per deleted execution
-- with its URIs. Texera's child rows are deleted by its own cascade, ours here, except bindings: by
-- them a source that still writes learns that the execution is gone.
-- `lock_selected` comes before, so that the snapshot has all URIs that others have committed.
-- $1 user, $2 whether the caller reads everything, $3 workflow, $4 execution ids
with known as (
    select run.eid, run.uid
    from texera_db.workflow_executions run
    join texera_db.workflow_version v using (vid)
    where run.eid = any ($4::int[]) and v.wid = $3
), checks as (
    select
        exists (
            select from texera_db.workflow w
            where w.wid = $3
              and ($2 or exists (
                  select from cu_metadata.workflow_readers r
                  where r.user_id = $1 and r.workflow_id = w.wid
              ))
        ) as reads_workflow,
        exists (
            select from cu_metadata.active_users where user_id = $1
        ) as is_active,
        (
            select min(requested.eid) from unnest($4::int[]) requested (eid)
            where requested.eid not in (select known.eid from known)
        ) as missing_id,
        (
            select min(known.eid) from known where known.uid <> $1
        ) as foreign_id
), stored as (
    select run.eid, run.runtime_stats_uri as uri
    from texera_db.workflow_executions run
    where run.eid in (select known.eid from known)
    union all
    select port.workflow_execution_id, port.result_uri
    from texera_db.operator_port_executions port
    where port.workflow_execution_id in (select known.eid from known)
    union all
    select operator.workflow_execution_id, operator.console_messages_uri
    from texera_db.operator_executions operator
    where operator.workflow_execution_id in (select known.eid from known)
), deleted as (
    delete from texera_db.workflow_executions run
    using known, checks
    where run.eid = known.eid
      and reads_workflow and is_active and missing_id is null and foreign_id is null
    returning run.eid
), unleased as (
    delete from cu_metadata.leases l using deleted where l.execution_id = deleted.eid
), unended as (
    delete from cu_metadata.terminal_statuses t using deleted where t.execution_id = deleted.eid
), uncosted as (
    delete from cu_metadata.operator_costs c using deleted where c.execution_id = deleted.eid
)
select
    checks.*,
    deleted.eid as execution_id,
    array(
        select stored.uri from stored
        where stored.eid = deleted.eid and stored.uri <> ''
        order by stored.uri
    ) as uris
from checks
left join deleted on true
order by deleted.eid;


-- name: bookmark_executions
-- As above. $1 user, $2 whether the caller reads everything, $3 workflow, $4 execution ids,
-- $5 bookmarked
with known as (
    select run.eid, run.uid
    from texera_db.workflow_executions run
    join texera_db.workflow_version v using (vid)
    where run.eid = any ($4::int[]) and v.wid = $3
), checks as (
    select
        exists (
            select from texera_db.workflow w
            where w.wid = $3
              and ($2 or exists (
                  select from cu_metadata.workflow_readers r
                  where r.user_id = $1 and r.workflow_id = w.wid
              ))
        ) as reads_workflow,
        exists (
            select from cu_metadata.active_users where user_id = $1
        ) as is_active,
        (
            select min(requested.eid) from unnest($4::int[]) requested (eid)
            where requested.eid not in (select known.eid from known)
        ) as missing_id,
        (
            select min(known.eid) from known where known.uid <> $1
        ) as foreign_id
), locked as (
    select run.eid
    from texera_db.workflow_executions run
    join known using (eid)
    join checks on reads_workflow and is_active and missing_id is null and foreign_id is null
    order by run.eid
    for no key update of run
), bookmarked as (
    update texera_db.workflow_executions run
    set bookmarked = $5
    from locked
    where run.eid = locked.eid
    returning run.eid
)
select checks.*, bookmarked.eid as execution_id
from checks
left join bookmarked on true
order by bookmarked.eid;
