-- migrate:up

-- Keys of sidecars that may not act any more: replaced by another key, revoked, or both (ADR 61). Rows
-- are kept: a key that is found in an old copy of a volume is still refused, and a revocation of it
-- reaches the keys that came after it.
create table cu_metadata.retired_sources (
    source_id text primary key,
    successor_id text unique, -- null: revoked without one
    retired_at timestamptz not null default now(),
    revoked_at timestamptz,
    revoked_reason text,
    check (source_id <> successor_id),
    check (successor_id is not null or revoked_at is not null)
);


-- Whether the key may not act any more, as of now: waits for a rotation or revocation of it in progress,
-- and reads under the snapshot after that wait (each statement of a volatile function has its own). A
-- rotation or revocation waits in turn until the calling transaction ends. The first key of the lock is
-- any fixed number.
create function cu_metadata.is_retired(source text) returns boolean
language sql volatile as $$
    select pg_advisory_xact_lock_shared(7080007, hashtext(source));
    select exists (select from cu_metadata.retired_sources where source_id = source);
$$;

-- migrate:down
-- Forward only: a later migration undoes what has to go.
