-- Single-call writes: the check of the caller, before entries.sql.


-- name: execution_user
-- The execution's user, if the caller may read the execution.
-- $1 execution, $2 user, $3 whether the caller reads everything
select execution.uid as user_id
from texera_db.workflow_executions execution
join texera_db.workflow_version version using (vid)
where execution.eid = $1
  and ($3 or exists (
      select
      from cu_metadata.workflow_readers reader
      where reader.user_id = $2 and reader.workflow_id = version.wid
  ));
