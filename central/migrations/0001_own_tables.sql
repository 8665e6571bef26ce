-- migrate:up

-- Everything of ours lives in this schema. Nothing here refers to Texera's tables by a
-- foreign key: that would put triggers on them, and Texera's tables are never altered.
create schema if not exists cu_metadata;


-- Which source may write to an execution: the sidecar `source_id` (the RFC 7638 thumbprint of its
-- key) on behalf of `user_id`. Made with the user's token, at create or at the first write. The runner
-- is the last source that was bound while the execution was open; the others, which were bound
-- after its end, write the other fields only.
create table cu_metadata.bindings (
    execution_id int not null,
    source_id text not null,
    user_id int not null,
    workflow_id int not null,
    computing_unit_id int,
    warehouse text, -- the execution's warehouse name, which its URIs carry; never changes
    boot_id text,
    may_set_status boolean not null default true, -- the runner's
    created_at timestamptz not null default now(),
    revoked_at timestamptz,
    revoked_reason text,
    primary key (execution_id, source_id)
);

-- One runner per execution, whether its binding is live or revoked.
create unique index bindings_of_runners on cu_metadata.bindings (execution_id) where may_set_status;
create index bindings_by_age on cu_metadata.bindings (created_at);
create index bindings_by_source on cu_metadata.bindings (source_id);
create index bindings_live_by_user on cu_metadata.bindings (user_id) where revoked_at is null;


-- Until when the source counts as alive: one row per execution that is bound and open. Narrow,
-- because every row is written every 20 s.
create table cu_metadata.leases (
    execution_id int primary key,
    source_id text not null,
    computing_unit_id int,
    expires_at timestamptz not null,
    close_failed_at timestamptz -- before `expires_at`: the lease was renewed since
);

create index leases_by_expiry on cu_metadata.leases (expires_at);
create index leases_by_unit on cu_metadata.leases (computing_unit_id);


-- Since when all replicas together have accepted lease renewals. One row.
create table cu_metadata.renewal_availability (
    only_row boolean primary key default true check (only_row),
    available_since timestamptz not null default now(),
    heartbeat_at timestamptz not null default now()
);


-- The master processes of a computing unit, and the executions that each of them closed. The one
-- that is not superseded is the current one.
create table cu_metadata.boots (
    computing_unit_id int not null,
    boot_id text not null,
    source_id text not null,
    closed int[] not null default '{}', -- the response to a repeated call
    started_at timestamptz not null default now(),
    superseded_at timestamptz,
    primary key (computing_unit_id, boot_id)
);

create index boots_by_age on cu_metadata.boots (superseded_at) where superseded_at is not null;
create unique index boots_current on cu_metadata.boots (computing_unit_id)
where superseded_at is null;


-- The last batch applied for each spool (source and epoch), with its response.
create table cu_metadata.cursors (
    source_id text not null,
    epoch text not null,
    last_batch bigint not null,
    digest text not null,
    response bytea not null,
    updated_at timestamptz not null default now(),
    primary key (source_id, epoch)
);


-- Responses by idempotency key. `status` and `response` are null only inside the transaction that
-- does the work.
create table cu_metadata.idempotency_keys (
    user_id int not null,
    route text not null,
    key text not null,
    body_sha256 text not null,
    status smallint,
    response bytea,
    created_at timestamptz not null default now(),
    primary key (user_id, route, key)
);

create index idempotency_keys_by_age on cu_metadata.idempotency_keys (created_at);


-- Which source ended an execution: KILLED may become COMPLETED only from the source that killed
-- it. A provisional end (an orphan closed as FAILED) is replaced by the source's own status.
create table cu_metadata.terminal_statuses (
    execution_id int primary key,
    status smallint not null,
    source_id text,
    provisional boolean not null default false,
    reason text,
    recorded_at timestamptz not null default now()
);


-- The audit of refused writes, capped per source and hour.
create table cu_metadata.refusals (
    id bigint generated always as identity primary key,
    refused_at timestamptz not null default now(),
    source_id text not null,
    user_id int,
    execution_id int,
    op text not null,
    slug text not null,
    detail text not null
);

create index refusals_by_age on cu_metadata.refusals (refused_at);
create index refusals_by_source on cu_metadata.refusals (source_id, refused_at);
create index refusals_of_unknown on cu_metadata.refusals (refused_at) where user_id is null;


-- Seconds per operator of a completed execution, as its computing unit measured them.
create table cu_metadata.operator_costs (
    execution_id int primary key,
    operators jsonb not null,
    recorded_at timestamptz not null default now()
);


-- COMPLETED, FAILED or KILLED. The planner inlines it.
create function cu_metadata.is_terminal(status_code smallint) returns boolean
language sql immutable parallel safe as $$
    select status_code in (3, 4, 5)
$$;


-- What a user may do with a workflow: READ or WRITE; no row is no grant. The user's own row
-- decides alone, even NONE; otherwise the strongest grant through a project counts.
create view cu_metadata.workflow_grants as
select own.uid as user_id, own.wid as workflow_id, own.privilege::text as privilege
from texera_db.workflow_user_access own
where own.privilege in ('READ', 'WRITE')
union all
select member.uid, placed.wid, max(member.privilege)::text
from texera_db.project_user_access member
join texera_db.workflow_of_project placed using (pid)
where member.privilege in ('READ', 'WRITE')
  and not exists (
      select from texera_db.workflow_user_access own
      where own.uid = member.uid and own.wid = placed.wid
  )
group by member.uid, placed.wid;


-- Who may read a workflow: holders of a grant, and every user if it is public. ADMIN, who reads
-- everything, is not in here: the role is the token's.
create view cu_metadata.workflow_readers as
select grants.user_id, grants.workflow_id
from cu_metadata.workflow_grants grants
union all
select anyone.uid, public_workflow.wid
from texera_db."user" anyone
cross join texera_db.workflow public_workflow
where public_workflow.is_public;


-- What a user may do with a computing unit: READ, or WRITE to run on it. Its owner may.
create view cu_metadata.computing_unit_grants as
select unit.uid as user_id, unit.cuid as computing_unit_id, 'WRITE' as privilege
from texera_db.workflow_computing_unit unit
union all
select access.uid, access.cuid, access.privilege::text
from texera_db.computing_unit_user_access access
join texera_db.workflow_computing_unit unit using (cuid)
where access.privilege in ('READ', 'WRITE') and access.uid <> unit.uid;


-- Users who may act at all; a demoted user is absent, whatever their token says.
create view cu_metadata.active_users as
select person.uid as user_id, person.role::text as role
from texera_db."user" person
where person.role in ('REGULAR', 'ADMIN');


-- Whether the user may act as of now, not as of the snapshot of the statement that calls it: a
-- volatile function reads under a new snapshot, and one with a subquery is never inlined. For a
-- statement that has waited for a lock.
create function cu_metadata.is_active_now(of_user int) returns boolean
language sql volatile as $$
    select exists (select from cu_metadata.active_users where user_id = of_user)
$$;


-- Whether a source may write to an execution, and for whom: the facts by which every way of applying
-- entries judges the writer (central/sql/entries.sql). No row: the source was never bound to it.
create view cu_metadata.writers as
select
    binding.execution_id,
    binding.source_id,
    binding.user_id,
    binding.workflow_id,
    binding.computing_unit_id,
    binding.warehouse,
    binding.may_set_status,
    binding.revoked_at is not null as is_revoked,
    exists (
        select from cu_metadata.active_users writer where writer.user_id = binding.user_id
    ) as is_active
from cu_metadata.bindings binding;

-- migrate:down
-- Forward only: a later migration undoes what has to go.
