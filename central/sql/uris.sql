-- URIs of an execution.


-- name: read_uris
-- All URIs of one execution in one row; registries as JSON arrays in the order of their keys. Rows
-- without a URI, which older Texeras wrote, are left out.
-- $1 execution, $2 user, $3 whether the caller reads everything
select
    e.runtime_stats_uri,
    coalesce(e.runtime_stats_size, 0) as runtime_stats_bytes,
    (
        select coalesce(
            json_agg(
                json_build_object(
                    'global_port_id', p.global_port_id,
                    'uri', p.result_uri,
                    'result_bytes', coalesce(p.result_size, 0)
                )
                order by p.global_port_id
            ),
            '[]'
        )
        from texera_db.operator_port_executions p
        where p.workflow_execution_id = e.eid and p.result_uri <> ''
    ) as results,
    (
        select coalesce(
            json_agg(
                json_build_object(
                    'operator_id', o.operator_id,
                    'uri', o.console_messages_uri,
                    'bytes', coalesce(o.console_messages_size, 0)
                )
                order by o.operator_id
            ),
            '[]'
        )
        from texera_db.operator_executions o
        where o.workflow_execution_id = e.eid and o.console_messages_uri <> ''
    ) as console
from texera_db.workflow_executions e
join texera_db.workflow_version v using (vid)
where e.eid = $1
  and ($3 or exists (
      select from cu_metadata.workflow_readers r
      where r.user_id = $2 and r.workflow_id = v.wid
  ));


-- name: operator_results
-- The results of one operator's ports; one row of nulls if it has none, no row if the caller may not
-- read the execution. The primary key finds the execution's rows, the prefix
-- `(logicalOpId=<operator>,layerName=` the operator's.
-- $1 execution, $2 user, $3 whether the caller reads everything, $4 prefix
select p.global_port_id, p.result_uri as uri, coalesce(p.result_size, 0) as result_bytes
from texera_db.workflow_executions e
join texera_db.workflow_version v using (vid)
left join texera_db.operator_port_executions p
    on p.workflow_execution_id = e.eid
    and starts_with(p.global_port_id, $4)
    and p.result_uri <> ''
where e.eid = $1
  and ($3 or exists (
      select from cu_metadata.workflow_readers r
      where r.user_id = $2 and r.workflow_id = v.wid
  ));


-- name: operator_console
-- As above, the console messages of an operator.
-- $1 execution, $2 user, $3 whether the caller reads everything, $4 operator
select o.console_messages_uri as uri, coalesce(o.console_messages_size, 0) as bytes
from texera_db.workflow_executions e
join texera_db.workflow_version v using (vid)
left join texera_db.operator_executions o
    on o.workflow_execution_id = e.eid and o.operator_id = $4
where e.eid = $1
  and ($3 or exists (
      select from cu_metadata.workflow_readers r
      where r.user_id = $2 and r.workflow_id = v.wid
  ));
