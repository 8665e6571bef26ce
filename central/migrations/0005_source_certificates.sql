-- migrate:up

-- With which certificate identity (a SPIFFE id, a DNS name) a source was first used: it is accepted
-- with this one alone (ADR 71).
create table cu_metadata.source_certificates (
    source_id text primary key,
    identity text not null,
    pinned_at timestamptz not null default now()
);

create index source_certificates_by_age on cu_metadata.source_certificates (pinned_at);

-- migrate:down
-- Forward only: a later migration undoes what has to go.
