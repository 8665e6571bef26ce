-- Sources: the keys of sidecars. One replaces another, which is retired; an operator revokes them.


-- name: is_bound_source
-- Whether the source was bound to something at some time; one row. $1 source
select exists (select from cu_metadata.bindings where source_id = $1) as is_bound;


-- name: pinned_certificate
-- The certificate identity that a source was first used with. $1 source
select identity from cu_metadata.source_certificates where source_id = $1;


-- name: pin_certificate
-- The same, of a source that is used with a certificate now: pinned to it if it has none yet. A
-- source that nobody vouches for is not stored: it has to be bound, or used by a user. No row:
-- another transaction is pinning it, or it may not be pinned.
-- $1 source, $2 identity, $3 whether a user calls
with pinned as (
    select identity from cu_metadata.source_certificates where source_id = $1
), new as (
    insert into cu_metadata.source_certificates (source_id, identity)
    select $1, $2
    where not exists (select from pinned)
      and ($3 or exists (select from cu_metadata.bindings where source_id = $1))
    on conflict (source_id) do nothing
    returning identity
)
select identity from pinned
union all
select identity from new;


-- name: forget_certificate
-- By an operator. $1 source
with forgotten as (
    delete from cu_metadata.source_certificates where source_id = $1 returning identity
), audited as (
    insert into cu_metadata.audit_events (action, source_id, detail)
    select 'unpin', $1, identity from forgotten
)
select identity from forgotten;


-- name: find_retired
-- $1 source
select successor_id, revoked_at is not null as is_revoked
from cu_metadata.retired_sources
where source_id = $1;


-- name: lock_source
-- Waits for calls of the source that asked whether it is retired (`cu_metadata.is_retired`), and lets
-- later ones wait. $1 source
select pg_advisory_xact_lock(7080007, hashtext($1));


-- name: find_successor
-- Null if the source has none. One row. $1 source
select max(successor_id) as successor_id from cu_metadata.retired_sources where source_id = $1;


-- name: succession_facts
-- What decides about a rotation. One row. $1 old source, $2 new source, $3 the only computing unit, or
-- null for any
select
    exists (
        select from cu_metadata.bindings where source_id = $1 and revoked_at is null
    ) as has_bindings,
    exists (
        select from cu_metadata.bindings
        where source_id = $1
          and revoked_at is null
          and $3::int is not null
          and computing_unit_id is distinct from $3
    ) as has_other_units,
    exists (
        select from cu_metadata.retired_sources where $2 in (source_id, successor_id)
    )
    or exists (select from cu_metadata.bindings where source_id = $2)
    or exists (select from cu_metadata.cursors where source_id = $2)
    or exists (select from cu_metadata.boots where source_id = $2)
    or exists (select from cu_metadata.source_certificates where source_id = $2)
    or exists (
        select from cu_metadata.idempotency_keys
        where user_id in (select user_id from cu_metadata.bindings where source_id = $1)
          and right(route, length($2) + 1) = ' ' || $2
    ) as is_used;


-- name: lock_cursors
-- Waits for batches in progress, whose rows the next statement has to see. $1 source
select from cu_metadata.cursors where source_id = $1 order by epoch for update;


-- name: succeed
-- Moves what the old key holds, and retires it. Revoked bindings stay with it. A take-over or revocation
-- in progress is waited for, and its rows are judged anew. $1 old source, $2 new source
with retired as (
    insert into cu_metadata.retired_sources (source_id, successor_id) values ($1, $2)
), moved as (
    update cu_metadata.bindings set source_id = $2
    where source_id = $1 and revoked_at is null
    returning execution_id, user_id
), leases as (
    update cu_metadata.leases set source_id = $2
    where source_id = $1 and execution_id = any (array (select execution_id from moved))
), endings as (
    -- KILLED becomes COMPLETED only from the source that killed it.
    update cu_metadata.terminal_statuses set source_id = $2
    where source_id = $1 and execution_id = any (array (select execution_id from moved))
), boots as (
    update cu_metadata.boots set source_id = $2 where source_id = $1
), certificates as (
    update cu_metadata.source_certificates set source_id = $2 where source_id = $1
), cursors as (
    update cu_metadata.cursors set source_id = $2 where source_id = $1
), keys as (
    -- The route of a key ends with its source (`api/idempotent.py`).
    update cu_metadata.idempotency_keys
    set route = left(route, -length($1)) || $2
    where user_id = any (array (select distinct user_id from moved))
      and right(route, length($1) + 1) = ' ' || $1
)
insert into cu_metadata.audit_events (action, source_id, detail) values ('rotate', $1, $2);


-- name: mark_revoked
-- The source, and the keys that came after it. $1 source, $2 reason
with recursive line (source_id) as (
    select $1::text
    union
    select retired.successor_id
    from cu_metadata.retired_sources retired
    join line using (source_id)
    where retired.successor_id is not null
), marked as (
    insert into cu_metadata.retired_sources as retired (source_id, revoked_at, revoked_reason)
    select source_id, now(), $2 from line
    on conflict (source_id) do update
    set revoked_at = excluded.revoked_at, revoked_reason = excluded.revoked_reason
    where retired.revoked_at is null
    returning source_id
)
insert into cu_metadata.audit_events (action, source_id, detail)
select 'revoke-source', source_id, $2 from marked;
