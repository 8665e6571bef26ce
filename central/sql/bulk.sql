-- Bulk calls: the executions that a user has selected, deleted or bookmarked, all or none.


-- name: lock_selection
-- Locks the selected executions in id order, if the caller may change all of them: nobody blocks the
-- executions of others. FOR UPDATE also blocks inserts of URIs, by their foreign keys. One row; its
-- columns say why nothing was locked, or that one was deleted meanwhile.
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
), locked as (
    select run.eid
    from texera_db.workflow_executions run
    join known using (eid)
    join checks on reads_workflow and is_active and missing_id is null and foreign_id is null
    order by run.eid
    for update of run
)
select
    reads_workflow,
    is_active,
    foreign_id,
    coalesce(
        missing_id,
        (
            select min(known.eid) from known
            where foreign_id is null and known.eid not in (select eid from locked)
        )
    ) as missing_id
from checks;


-- name: delete_executions
-- One row per deleted execution with its URIs: `lock_selection` comes before, so that the snapshot has
-- all that others have committed. Texera's child rows are deleted by its own cascade, ours here, except
-- bindings: by them a source that still writes learns that the execution is gone.
-- $1 execution ids, $2 user, $3 source
with stored as (
    select eid, runtime_stats_uri as uri
    from texera_db.workflow_executions
    where eid = any ($1::int[])
    union all
    select workflow_execution_id, result_uri
    from texera_db.operator_port_executions
    where workflow_execution_id = any ($1::int[])
    union all
    select workflow_execution_id, console_messages_uri
    from texera_db.operator_executions
    where workflow_execution_id = any ($1::int[])
), deleted as (
    delete from texera_db.workflow_executions where eid = any ($1::int[]) returning eid, cuid
), audited as (
    insert into cu_metadata.audit_events
        (action, user_id, source_id, execution_id, computing_unit_id)
    select 'delete', $2, $3, eid, cuid from deleted
), unleased as (
    delete from cu_metadata.leases where execution_id = any ($1::int[])
), unended as (
    delete from cu_metadata.terminal_statuses where execution_id = any ($1::int[])
), uncosted as (
    delete from cu_metadata.operator_costs where execution_id = any ($1::int[])
)
select
    deleted.eid as execution_id,
    array(
        select stored.uri from stored
        where stored.eid = deleted.eid and stored.uri <> ''
        order by stored.uri
    ) as uris
from deleted
order by deleted.eid;


-- name: bookmark_executions
-- $1 execution ids, $2 bookmarked
update texera_db.workflow_executions set bookmarked = $2 where eid = any ($1::int[]);
