-- A workflow that was never saved has no version; Texera then makes one with the content `[]`.
-- Here a first run makes it; to ask for it changes nothing.

-- name: latest_version
-- One row of null if there is none, no row if the caller may not read the workflow.
-- $1 workflow, $2 user, $3 whether the caller reads everything
select (select max(v.vid) from texera_db.workflow_version v where v.wid = w.wid) as version_id
from texera_db.workflow w
where w.wid = $1
  and ($3 or exists (
      select from cu_metadata.workflow_readers r
      where r.user_id = $2 and r.workflow_id = w.wid
  ));

-- name: lock_versions
-- Held until the transaction ends, so that two first runs make one version.
-- The first key is any fixed number; $1 workflow.
select pg_advisory_xact_lock(7080002, $1);

-- name: create_first_version
-- $1 workflow
insert into texera_db.workflow_version (wid, content)
select $1, '[]'
where not exists (select from texera_db.workflow_version where wid = $1);
