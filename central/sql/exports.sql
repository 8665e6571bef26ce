-- The facts for export plans.


-- name: export_facts
-- No row if the caller may not read the workflow. `execution_id` is the latest on the unit.
-- Content that is longer than $5 bytes stays in the database.
-- $1 workflow, $2 computing unit, $3 user, $4 whether the caller reads everything
select
    w.name,
    case when octet_length(stored.content) <= $5 then stored.content end as content,
    octet_length(stored.content) as content_bytes,
    exists (
        select from cu_metadata.computing_unit_grants g
        where g.user_id = $3 and g.computing_unit_id = $2
    ) or ($4 and exists (
        select from texera_db.workflow_computing_unit u where u.cuid = $2
    )) as sees_unit,
    (
        select max(v.vid) from texera_db.workflow_version v where v.wid = w.wid
    ) as version_id,
    latest.eid as execution_id,
    (
        select coalesce(json_object_agg(port.global_port_id, port.result_uri), '{}')
        from texera_db.operator_port_executions port
        where port.workflow_execution_id = latest.eid and port.result_uri <> ''
    ) as results,
    now() at time zone 'utc' as utc_now
from texera_db.workflow w
cross join lateral (
    select cu_metadata.workflow_content($1, $3, $4) as content
    offset 0 -- once, and not for each of its two uses
) stored
left join lateral (
    select max(run.eid) as eid
    from texera_db.workflow_version v
    join texera_db.workflow_executions run using (vid)
    where v.wid = w.wid and run.cuid = $2
) latest on true
where w.wid = $1
  and ($4 or exists (
      select from cu_metadata.workflow_readers r
      where r.user_id = $3 and r.workflow_id = w.wid
  ));


-- name: restricted_datasets
-- Datasets of others that may not be downloaded, by their position in the arrays. The role may read
-- neither e-mail addresses nor datasets.
-- $1 user; arrays: $2 the owner's e-mail and $3 the dataset's name
select place as position, owner_email, dataset_name as name
from cu_metadata.restricted_datasets($1, $2::text[], $3::text[]);
