-- name: lock_migrations
-- Held until the transaction ends. $1 the lock's number.
select pg_advisory_xact_lock($1);

-- name: has_texera_schema
select to_regclass('texera_db.workflow_executions') is not null;

-- name: create_migrations
create schema if not exists cu_metadata;
create table if not exists cu_metadata.migrations (
    number int primary key,
    name text not null,
    checksum text not null,
    applied_at timestamptz not null default now()
);

-- name: applied_migrations
select number, checksum from cu_metadata.migrations order by number;

-- name: record_migration
-- $1 number, $2 file name, $3 checksum (hex SHA-256 of the whole file)
insert into cu_metadata.migrations (number, name, checksum) values ($1, $2, $3);
