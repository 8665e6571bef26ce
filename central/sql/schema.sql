-- name: schema_facts
-- What differs between Texera's versions. One row.
select
    exists (
        select from pg_attribute
        where attrelid = to_regclass('texera_db.workflow_executions')
          and attname = 'whid' and not attisdropped
    ) as has_warehouse_column,
    to_regclass('texera_db.user_warehouse') is not null as has_warehouse_table,
    exists (
        select from pg_attribute
        where attrelid = to_regclass('texera_db.operator_port_executions')
          and attname = 'result_size' and atttypid = 'int8'::regtype
    ) as has_bigint_sizes;
