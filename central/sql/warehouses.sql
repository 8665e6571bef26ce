-- Only where the schema has them (`store/schema.py`).

-- name: warehouse_name
-- $1 warehouse, $2 the user whose it must be
select lakekeeper_warehouse_name as name
from texera_db.user_warehouse
where whid = $1 and uid = $2;

-- name: execution_warehouse
-- The name that the execution's URIs carry; no row if it is in none. $1 execution
select w.lakekeeper_warehouse_name as name
from texera_db.workflow_executions e
join texera_db.user_warehouse w using (whid)
where e.eid = $1;
