-- A workflow that was never saved has no version; Texera then makes one with the content `[]`.

-- name: lock_versions
-- Held until the transaction ends, so that two first runs make one version.
-- The first key is any fixed number; $1 workflow.
select pg_advisory_xact_lock(7080002, $1);

-- name: create_first_version
-- $1 workflow
insert into texera_db.workflow_version (wid, content)
select $1, '[]'
where not exists (select from texera_db.workflow_version where wid = $1);
