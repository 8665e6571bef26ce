-- Variant of texera.sql: per-user warehouses, which the newest schema has.

CREATE TABLE texera_db.user_warehouse (
    whid                      SERIAL PRIMARY KEY,
    uid                       INT NOT NULL REFERENCES texera_db."user" (uid) ON DELETE CASCADE,
    name                      VARCHAR(128) NOT NULL,
    lakekeeper_warehouse_name VARCHAR(256) NOT NULL UNIQUE,
    creation_time             TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP,
    UNIQUE (uid, name)
);

ALTER TABLE texera_db.workflow_executions
    ADD COLUMN whid INT REFERENCES texera_db.user_warehouse (whid) ON DELETE SET NULL;
