-- Ends executions for those who cannot: the one statement that writes a provisional FAILED.


-- name: close_executions
-- $1 ids of executions, locked by this transaction and found open; $2 the reason of each
with closing as (
    select * from unnest($1::int[], $2::text[]) as named (execution_id, reason)
), ending as (
    insert into cu_metadata.terminal_statuses (execution_id, status, provisional, reason)
    select execution_id, 4, true, reason
    from closing
    on conflict (execution_id) do update
    set status = excluded.status,
        source_id = null,
        provisional = true,
        reason = excluded.reason,
        recorded_at = excluded.recorded_at
), released as (
    delete from cu_metadata.leases
    where execution_id = any (array (select execution_id from closing))
)
update texera_db.workflow_executions
set status = 4,
    last_update_time = greatest(last_update_time, now() at time zone 'utc')
where eid = any (array (select execution_id from closing));
