-- The indexes that Texera's tables lack, for look-ups by workflow and by computing unit. Each
-- is made beside the running system (CONCURRENTLY: no lock that writes wait for).

-- name: try_index_lock
-- A session's lock, not waited for: a waiting statement would hold a snapshot, which the other
-- session's CONCURRENTLY waits for in turn. $1 the lock's number
select pg_try_advisory_lock($1);

-- name: find_unfinished_indexes
-- What an interrupted run has left: there, but of no use. As statements that drop them.
select format('drop index concurrently %I.%I', space.nspname, class.relname)
from pg_index index
join pg_class class on class.oid = index.indexrelid
join pg_namespace space on space.oid = class.relnamespace
where not index.indisvalid and space.nspname = 'texera_db' and class.relname like 'cu\_metadata\_%';

-- name: index_versions_by_workflow
-- A workflow's versions, the newest first: `latest`, lists, costs, and every create.
create index concurrently if not exists cu_metadata_versions_by_workflow
on texera_db.workflow_version (wid, vid);

-- name: index_executions_by_version
-- The runs of a version, for the same.
create index concurrently if not exists cu_metadata_executions_by_version
on texera_db.workflow_executions (vid, eid);

-- name: index_executions_by_unit
-- A unit's runs that still point to results or logs: the clean-up, which has few to find. The predicate
-- is `cu_metadata.is_terminal` inlined: nothing on Texera's tables refers to our schema.
create index concurrently if not exists cu_metadata_executions_to_clear
on texera_db.workflow_executions (cuid, eid)
where status in (3, 4, 5) and (result <> '' or log_location <> '');
