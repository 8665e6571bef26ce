-- The chain over the audit's events (`central/store/audit.py`). Events are inserted by the
-- statements that they record: executions.sql, bindings.sql, boots.sql, bulk.sql and orphans.sql.


-- name: has_unlinked_events
-- $1 how long a transaction may be open at most: earlier passes saw the events before
select exists (
    select from cu_metadata.audit_events event
    where event.recorded_at > coalesce(
        (
            select linked_at - $1::interval
            from cu_metadata.audit_links
            order by position desc
            limit 1
        ),
        '-infinity'
    )
    and not exists (
        select from cu_metadata.audit_links link where link.event_id = event.id
    )
) as has_events;


-- name: try_chain_lock
-- Held until the transaction ends, so that one replica appends to the chain at a time.
select pg_try_advisory_xact_lock(7080006) as is_locked;


-- name: last_link
-- No row if the chain is empty.
select position, hash, linked_at
from cu_metadata.audit_links
order by position desc
limit 1;


-- name: unlinked_events
-- $1 recorded after this time, or null for all, $2 limit
select event.*
from cu_metadata.audit_events event
where ($1::timestamptz is null or event.recorded_at > $1)
  and not exists (
      select from cu_metadata.audit_links link where link.event_id = event.id
  )
order by event.id
limit $2;


-- name: add_links
-- $1 position of the link before them, $2 ids of the events, $3 hashes
insert into cu_metadata.audit_links (position, event_id, hash)
select $1 + ordinal, event_id, hash
from unnest($2::bigint[], $3::bytea[]) with ordinality as link (event_id, hash, ordinal);


-- name: links
-- With their events; `id` is null where the event is gone. $1 after this position, $2 limit
select link.position, link.event_id, link.hash, link.linked_at, event.*
from cu_metadata.audit_links link
left join cu_metadata.audit_events event on event.id = link.event_id
where link.position > $1
order by link.position
limit $2;


-- name: list_events
-- Those that match every filter that is not null, the newest first.
-- $1 action, $2 user, $3 execution, $4 source, $5 limit
select event.*
from cu_metadata.audit_events event
where ($1::text is null or event.action = $1)
  and ($2::int is null or event.user_id = $2)
  and ($3::int is null or event.execution_id = $3)
  and ($4::text is null or event.source_id = $4)
order by event.id desc
limit $5;
