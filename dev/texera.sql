-- The tables of Texera that execution metadata touches, as they stand since July 2026.
-- Ours, after Texera's public schema; full-text search (the pgroonga extension) is left out.
-- Variants: texera_int_sizes.sql (before July 2026), texera_warehouse.sql (per-user warehouses).
-- All timestamps are without time zone and mean UTC.

CREATE SCHEMA texera_db;

CREATE TYPE texera_db.user_role_enum AS ENUM ('INACTIVE', 'RESTRICTED', 'REGULAR', 'ADMIN');
CREATE TYPE texera_db.privilege_enum AS ENUM ('NONE', 'READ', 'WRITE');
CREATE TYPE texera_db.workflow_computing_unit_type_enum AS ENUM ('local', 'kubernetes');

-- People ------------------------------------------------------------------------------------------

CREATE TABLE texera_db."user" (
    uid                   SERIAL PRIMARY KEY,
    name                  VARCHAR(256) NOT NULL,
    email                 VARCHAR(256) UNIQUE,
    password              VARCHAR(256),
    google_id             VARCHAR(256) UNIQUE,
    role                  texera_db.user_role_enum NOT NULL DEFAULT 'INACTIVE',
    google_avatar         VARCHAR(100),
    comment               TEXT,
    account_creation_time TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP,
    CHECK (password IS NOT NULL OR google_id IS NOT NULL)
);

-- Workflows ---------------------------------------------------------------------------------------

CREATE TABLE texera_db.workflow (
    wid                SERIAL PRIMARY KEY,
    name               VARCHAR(128) NOT NULL,
    description        VARCHAR(500),
    content            TEXT NOT NULL,
    creation_time      TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP,
    last_modified_time TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP,
    is_public          BOOLEAN NOT NULL DEFAULT FALSE
);

CREATE TABLE texera_db.workflow_of_user (
    uid INT NOT NULL REFERENCES texera_db."user" (uid) ON DELETE CASCADE,
    wid INT NOT NULL REFERENCES texera_db.workflow (wid) ON DELETE CASCADE,
    PRIMARY KEY (uid, wid)
);

CREATE TABLE texera_db.workflow_user_access (
    uid       INT NOT NULL REFERENCES texera_db."user" (uid) ON DELETE CASCADE,
    wid       INT NOT NULL REFERENCES texera_db.workflow (wid) ON DELETE CASCADE,
    privilege texera_db.privilege_enum NOT NULL DEFAULT 'NONE',
    PRIMARY KEY (uid, wid)
);

CREATE TABLE texera_db.workflow_version (
    vid           SERIAL PRIMARY KEY,
    wid           INT NOT NULL REFERENCES texera_db.workflow (wid) ON DELETE CASCADE,
    content       TEXT NOT NULL,
    creation_time TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP
);

-- Projects ----------------------------------------------------------------------------------------

CREATE TABLE texera_db.project (
    pid           SERIAL PRIMARY KEY,
    name          VARCHAR(128) NOT NULL,
    description   VARCHAR(10000),
    owner_id      INT NOT NULL REFERENCES texera_db."user" (uid) ON DELETE CASCADE,
    color         VARCHAR(6),
    creation_time TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP,
    UNIQUE (owner_id, name)
);

CREATE TABLE texera_db.workflow_of_project (
    wid INT NOT NULL REFERENCES texera_db.workflow (wid) ON DELETE CASCADE,
    pid INT NOT NULL REFERENCES texera_db.project (pid) ON DELETE CASCADE,
    PRIMARY KEY (wid, pid)
);

CREATE TABLE texera_db.project_user_access (
    uid       INT NOT NULL REFERENCES texera_db."user" (uid) ON DELETE CASCADE,
    pid       INT NOT NULL REFERENCES texera_db.project (pid) ON DELETE CASCADE,
    privilege texera_db.privilege_enum NOT NULL DEFAULT 'NONE',
    PRIMARY KEY (uid, pid)
);

-- Computing units ---------------------------------------------------------------------------------

CREATE TABLE texera_db.workflow_computing_unit (
    cuid           SERIAL PRIMARY KEY,
    uid            INT NOT NULL REFERENCES texera_db."user" (uid) ON DELETE CASCADE,
    name           VARCHAR(128) NOT NULL,
    creation_time  TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP,
    terminate_time TIMESTAMP DEFAULT NULL,
    type           texera_db.workflow_computing_unit_type_enum,
    uri            TEXT NOT NULL DEFAULT '',
    resource       TEXT DEFAULT ''
);

CREATE TABLE texera_db.computing_unit_user_access (
    cuid      INT NOT NULL REFERENCES texera_db.workflow_computing_unit (cuid) ON DELETE CASCADE,
    uid       INT NOT NULL REFERENCES texera_db."user" (uid) ON DELETE CASCADE,
    privilege texera_db.privilege_enum NOT NULL DEFAULT 'NONE',
    PRIMARY KEY (cuid, uid)
);

-- Executions. No secondary index: Texera has none (central offers them as a migration). -----------

CREATE TABLE texera_db.workflow_executions (
    eid                 SERIAL PRIMARY KEY,
    vid                 INT NOT NULL REFERENCES texera_db.workflow_version (vid) ON DELETE CASCADE,
    uid                 INT NOT NULL REFERENCES texera_db."user" (uid) ON DELETE CASCADE,
    cuid                INT REFERENCES texera_db.workflow_computing_unit (cuid) ON DELETE CASCADE,
    status              SMALLINT NOT NULL DEFAULT 1,
    result              TEXT,
    starting_time       TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP,
    last_update_time    TIMESTAMP,
    bookmarked          BOOLEAN DEFAULT FALSE,
    name                VARCHAR(128) NOT NULL DEFAULT 'Untitled Execution',
    environment_version VARCHAR(128) NOT NULL,
    log_location        TEXT,
    runtime_stats_uri   TEXT,
    runtime_stats_size  BIGINT DEFAULT 0
);

CREATE TABLE texera_db.operator_executions (
    workflow_execution_id INT NOT NULL
        REFERENCES texera_db.workflow_executions (eid) ON DELETE CASCADE,
    operator_id           VARCHAR(100) NOT NULL,
    console_messages_uri  TEXT,
    console_messages_size BIGINT DEFAULT 0,
    PRIMARY KEY (workflow_execution_id, operator_id)
);

CREATE TABLE texera_db.operator_port_executions (
    workflow_execution_id INT NOT NULL
        REFERENCES texera_db.workflow_executions (eid) ON DELETE CASCADE,
    global_port_id        VARCHAR(200) NOT NULL,
    result_uri            TEXT,
    result_size           BIGINT DEFAULT 0,
    PRIMARY KEY (workflow_execution_id, global_port_id)
);

-- Datasets: what an export needs to know of them --------------------------------------------------

CREATE TABLE texera_db.dataset (
    did             SERIAL PRIMARY KEY,
    owner_uid       INT NOT NULL REFERENCES texera_db."user" (uid) ON DELETE CASCADE,
    name            VARCHAR(128) NOT NULL,
    is_public       BOOLEAN NOT NULL DEFAULT TRUE,
    is_downloadable BOOLEAN NOT NULL DEFAULT TRUE,
    description     VARCHAR(512) NOT NULL DEFAULT '',
    creation_time   TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP,
    UNIQUE (owner_uid, name)
);
