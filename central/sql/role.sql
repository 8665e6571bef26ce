-- The service's login role. Run by `python -m central migrate` as the tables' owner; the
-- variables are psql's, so that a careful administrator can run the blocks by hand.

-- name: role_facts
-- $1 the role's name. One row, whether the role exists or not.
select
    exists (select from pg_roles where rolname = $1) as exists,
    exists (select from pg_roles where rolname = $1 and rolsuper) as is_superuser,
    exists (
        select from pg_class
        join pg_roles on pg_roles.oid = relowner
        where rolname = $1 and relnamespace in (
            select oid from pg_namespace where nspname in ('texera_db', 'cu_metadata')
        )
    ) as owns_tables,
    (
        select rolsuper or rolcreaterole from pg_roles where rolname = current_user
    ) as may_create_roles,
    exists (
        select from pg_attribute
        where attrelid = to_regclass('texera_db.workflow_executions')
          and attname = 'whid' and not attisdropped
    ) as has_warehouse_column,
    to_regclass('texera_db.user_warehouse') is not null as has_warehouse_table;

-- name: create_role
create role :"role" login nosuperuser nocreatedb nocreaterole;

-- name: set_up_role
-- The timeouts stand on the role because PgBouncer's server connections keep no settings of
-- a client. A statement of the service takes milliseconds; ten seconds is a lost database.
alter role :"role" login password :'verifier';
alter role :"role" set statement_timeout = '10s';
alter role :"role" set lock_timeout = '3s';
alter role :"role" set idle_in_transaction_session_timeout = '15s';
alter role :"role" set timezone = 'UTC';

-- name: grant
-- Texera's tables by column. Never "user".password: who needs a column for a new call adds it
-- here and to the test that lists them.
grant usage on schema texera_db, cu_metadata to :"role";

grant select (uid, role, email) on texera_db."user" to :"role";
grant select (wid, is_public, name, content) on texera_db.workflow to :"role";
grant select (owner_uid, name, is_downloadable) on texera_db.dataset to :"role";
grant select (cuid, terminate_time) on texera_db.workflow_computing_unit to :"role";

grant select (vid, wid), insert (wid, content) on texera_db.workflow_version to :"role";
grant usage on sequence texera_db.workflow_version_vid_seq to :"role";

grant
    select (eid, vid, uid, cuid, status, result, starting_time, last_update_time, bookmarked,
            name, environment_version, log_location, runtime_stats_uri, runtime_stats_size),
    insert (vid, uid, cuid, status, starting_time, name, environment_version),
    update (status, result, last_update_time, bookmarked, name, log_location,
            runtime_stats_uri, runtime_stats_size),
    delete
on texera_db.workflow_executions to :"role";
grant usage on sequence texera_db.workflow_executions_eid_seq to :"role";

grant
    select (workflow_execution_id, operator_id, console_messages_uri, console_messages_size),
    insert (workflow_execution_id, operator_id, console_messages_uri, console_messages_size),
    update (console_messages_uri, console_messages_size),
    delete
on texera_db.operator_executions to :"role";

grant
    select (workflow_execution_id, global_port_id, result_uri, result_size),
    insert (workflow_execution_id, global_port_id, result_uri, result_size),
    update (result_uri, result_size),
    delete
on texera_db.operator_port_executions to :"role";

grant select on
    cu_metadata.workflow_grants, cu_metadata.workflow_readers,
    cu_metadata.computing_unit_grants, cu_metadata.active_users
to :"role";
grant select, insert, update, delete on
    cu_metadata.bindings, cu_metadata.leases, cu_metadata.cursors,
    cu_metadata.idempotency_keys, cu_metadata.terminal_statuses, cu_metadata.refusals,
    cu_metadata.operator_costs, cu_metadata.continuity, cu_metadata.boots
to :"role";

-- `doctor` compares what was applied with what this version brings.
grant select on cu_metadata.migrations to :"role";

-- name: grant_warehouse_column
grant select (whid), insert (whid), update (whid) on texera_db.workflow_executions to :"role";

-- name: grant_warehouse_table
grant select (whid, uid, lakekeeper_warehouse_name) on texera_db.user_warehouse to :"role";
