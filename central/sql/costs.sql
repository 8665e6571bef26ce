-- Operator costs, for the scheduler of the next execution.


-- name: latest_costs
-- Of the completed execution that started last, as in Texera, but of those that the workflow's writers
-- or the caller ran: whoever may read a workflow may run it, and would decide by what costs others
-- are scheduled. One row of nulls if there is none, no row if the caller may not read the workflow.
-- $1 workflow, $2 user, $3 whether the caller reads everything
select e.eid as execution_id, e.runtime_stats_uri, c.operators
from texera_db.workflow w
left join lateral (
    select run.eid, run.runtime_stats_uri
    from texera_db.workflow_version v
    join texera_db.workflow_executions run using (vid)
    where v.wid = w.wid and run.status = 3
      and (
          run.uid = $2
          or run.uid = any (array (
              select writer.user_id from cu_metadata.workflow_grants writer
              where writer.workflow_id = w.wid and writer.privilege = 'WRITE'
          ))
      )
    order by run.starting_time desc, run.eid desc
    limit 1
) e on true
left join cu_metadata.operator_costs c on c.execution_id = e.eid
where w.wid = $1
  and ($3 or exists (
      select from cu_metadata.workflow_readers r
      where r.user_id = $2 and r.workflow_id = w.wid
  ));
