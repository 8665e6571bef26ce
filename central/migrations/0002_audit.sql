-- migrate:up

-- `is_owner`: a boot of the unit counts from its owner.
create or replace view cu_metadata.computing_unit_grants as
select unit.uid as user_id, unit.cuid as computing_unit_id, 'WRITE' as privilege, true as is_owner
from texera_db.workflow_computing_unit unit
union all
select access.uid, access.cuid, access.privilege::text, false
from texera_db.computing_unit_user_access access
join texera_db.workflow_computing_unit unit using (cuid)
where access.privilege in ('READ', 'WRITE') and access.uid <> unit.uid;


-- The rows of a user are capped, whatever keys they make.
create index refusals_by_user on cu_metadata.refusals (user_id, refused_at) where user_id is not null;


-- How many refusals of an hour are beyond the caps. User 0: of users that are not known.
create table cu_metadata.refusal_counts (
    hour timestamptz not null,
    user_id int not null,
    slug text not null,
    refused_count bigint not null,
    primary key (hour, user_id, slug)
);


-- Privileged calls that took effect, written by the statement that takes effect. The service may only
-- insert, and not the id nor the time. `user_id` is null for an operator.
create table cu_metadata.audit_events (
    id bigint generated always as identity primary key,
    recorded_at timestamptz not null default clock_timestamp(),
    action text not null,
    user_id int,
    source_id text,
    execution_id int,
    computing_unit_id int,
    detail text
);

create index audit_events_by_age on cu_metadata.audit_events (recorded_at);


-- The chain over the events, which a job of the service makes after their commit (ADR 64). `hash` is
-- over the hash before it and the event.
create table cu_metadata.audit_links (
    position bigint primary key,
    event_id bigint not null unique,
    hash bytea not null,
    linked_at timestamptz not null default now()
);

-- migrate:down
-- Forward only: a later migration undoes what has to go.
