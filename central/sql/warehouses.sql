-- The other blocks run only where `warehouses_exist` says so.


-- name: warehouses_exist
-- One row: whether this Texera's schema has warehouses.
select
    to_regclass('texera_db.user_warehouse') is not null
    and exists (
        select from pg_attribute
        where attrelid = to_regclass('texera_db.workflow_executions')
          and attname = 'whid' and not attisdropped
    ) as exist;


-- name: warehouse_name
-- No row for a warehouse that is not the user's. $1 warehouse, $2 user
select lakekeeper_warehouse_name as name
from texera_db.user_warehouse
where whid = $1 and uid = $2;


-- name: execution_warehouse
-- The warehouse name in the execution's URIs; no row if it is in none. $1 execution
select w.lakekeeper_warehouse_name as name
from texera_db.workflow_executions e
join texera_db.user_warehouse w using (whid)
where e.eid = $1;
