-- Variant of texera.sql: sizes as they were before July 2026.

ALTER TABLE texera_db.workflow_executions ALTER COLUMN runtime_stats_size TYPE INT;
ALTER TABLE texera_db.operator_executions ALTER COLUMN console_messages_size TYPE INT;
ALTER TABLE texera_db.operator_port_executions ALTER COLUMN result_size TYPE INT;
