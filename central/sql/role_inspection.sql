-- Inspections of `doctor`, as the service's own role.


-- name: session_facts
select
    current_user::text as role,
    current_setting('server_version_num')::int as server_version,
    clock_timestamp() as database_now,
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
    ) as excess_rights,
    to_regclass('cu_metadata.migrations') is not null as is_migrated
from pg_roles self
where self.rolname = current_user;


-- name: held_privileges
-- The role's effective privileges on Texera's tables: by column where that is possible ("" stands
-- for the table as a whole).
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
-- Tables and views of our own that the role cannot read.
select class.relname::text as table_name
from pg_class class
where class.relnamespace = to_regnamespace('cu_metadata')
  and class.relkind in ('r', 'p', 'v')
  and not has_table_privilege(class.oid, 'SELECT')
order by 1;


-- name: recorded_migrations
select number, name, checksum from cu_metadata.migrations order by number;
