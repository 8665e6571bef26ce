-- The service's login role: made by `python -m central migrate` as the tables' owner, and inspected
-- by `python -m central doctor` as the role itself. The variables are psql's, so that an
-- administrator can run the blocks by hand.


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
-- The timeouts are the role's, because PgBouncer's server connections keep no client settings. A
-- statement of the service takes milliseconds; after ten seconds the database counts as lost.
alter role :"role" login password :'verifier';
alter role :"role" set statement_timeout = '10s';
alter role :"role" set lock_timeout = '3s';
alter role :"role" set idle_in_transaction_session_timeout = '15s';
alter role :"role" set timezone = 'UTC';


-- name: grant
-- Texera's tables by column, never "user".password. A new call that needs another column adds it here
-- and to the test that lists them.
grant usage on schema texera_db, cu_metadata to :"role";

grant select (uid, role) on texera_db."user" to :"role";
grant select (wid, is_public, name) on texera_db.workflow to :"role";

-- Functions return what is needed of these (migration 0003).
revoke select (email) on texera_db."user" from :"role";
revoke select (content) on texera_db.workflow from :"role";
revoke select (owner_uid, name, is_downloadable) on texera_db.dataset from :"role";
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
    cu_metadata.computing_unit_grants, cu_metadata.active_users, cu_metadata.writers
to :"role";
grant select, insert, update, delete on
    cu_metadata.bindings, cu_metadata.leases, cu_metadata.cursors,
    cu_metadata.idempotency_keys, cu_metadata.terminal_statuses, cu_metadata.refusals,
    cu_metadata.operator_costs, cu_metadata.renewal_availability, cu_metadata.boots,
    cu_metadata.refusal_counts, cu_metadata.source_certificates
to :"role";
grant
    select,
    insert (source_id, successor_id, revoked_at, revoked_reason),
    update (revoked_at, revoked_reason)
on cu_metadata.retired_sources to :"role";
grant execute on function
    cu_metadata.is_retired(text), cu_metadata.is_active_now(int), cu_metadata.is_terminal(smallint),
    cu_metadata.workflow_content(int, int, boolean),
    cu_metadata.restricted_datasets(int, text[], text[])
to :"role";

-- The audit of what took effect is only ever added to; ids and times are the database's.
grant
    select,
    insert (action, user_id, source_id, execution_id, computing_unit_id, detail)
on cu_metadata.audit_events to :"role";
grant select, insert (position, event_id, hash) on cu_metadata.audit_links to :"role";

-- `doctor` compares the applied migrations with those of its version.
grant select on cu_metadata.migrations to :"role";


-- name: grant_warehouse_column
grant select (whid), insert (whid), update (whid) on texera_db.workflow_executions to :"role";


-- name: grant_warehouse_table
grant select (whid, uid, lakekeeper_warehouse_name) on texera_db.user_warehouse to :"role";


-- name: session_facts
-- The role and the session of `doctor`. One row.
select
    current_user::text as role,
    current_setting('server_version_num')::int as server_version,
    clock_timestamp() as database_now,
    coalesce(
        (select ssl from pg_stat_ssl where pid = pg_backend_pid()), false
    ) as is_encrypted,
    array(
        select name from pg_settings
        where name in ('statement_timeout', 'lock_timeout', 'idle_in_transaction_session_timeout')
          and setting = '0'
    ) as missing_timeouts,
    array(
        select 'is a superuser' where self.rolsuper
        union all
        select 'may create roles or databases, replicate or bypass row security'
        where self.rolcreaterole or self.rolcreatedb or self.rolreplication or self.rolbypassrls
        union all
        select 'is a member of ' || pg_get_userbyid(roleid)
        from pg_auth_members where member = self.oid
        union all
        select 'may alter ' || audit.name
        from unnest(array['cu_metadata.audit_events', 'cu_metadata.audit_links']) as audit (name)
        where has_table_privilege(to_regclass(audit.name), 'UPDATE, DELETE, TRUNCATE')
    ) as excess_rights,
    to_regclass('cu_metadata.migrations') is not null as is_migrated
from pg_roles self
where self.rolname = current_user;


-- name: held_privileges
-- What the role may do with Texera's tables, however it was granted: by column where possible ("" is
-- the whole table).
select class.relname::text as table_name, attribute.attname::text as column_name, kind as privilege
from pg_class class
join pg_attribute attribute on attribute.attrelid = class.oid
cross join unnest(array['SELECT', 'INSERT', 'UPDATE']) kind
where class.relnamespace = to_regnamespace('texera_db')
  and class.relkind in ('r', 'p', 'v', 'm')
  and attribute.attnum > 0
  and not attribute.attisdropped
  and has_column_privilege(class.oid, attribute.attnum, kind)
union all
select class.relname, '', kind
from pg_class class
cross join unnest(array['DELETE', 'TRUNCATE', 'TRIGGER']) kind
where class.relnamespace = to_regnamespace('texera_db')
  and class.relkind in ('r', 'p', 'v', 'm')
  and has_table_privilege(class.oid, kind);


-- name: unreadable_tables
-- Tables and views of `cu_metadata` that the role cannot read.
select class.relname::text as table_name
from pg_class class
where class.relnamespace = to_regnamespace('cu_metadata')
  and class.relkind in ('r', 'p', 'v')
  and not has_table_privilege(class.oid, 'SELECT')
order by 1;


-- name: recorded_migrations
-- The applied migrations.
select number, name, checksum from cu_metadata.migrations order by number;
