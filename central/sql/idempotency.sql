-- Idempotency keys and the responses to their calls.


-- name: claim_key
-- One row if the key is new or older than a day: the caller then does the work and stores the
-- response. No row if the key is taken; a claim whose work is in progress is waited for.
-- $1 user, $2 route, $3 key, $4 digest of the body, $5 source
insert into cu_metadata.idempotency_keys as taken (user_id, route, key, body_sha256)
values ($1, $2, $3, $4)
on conflict (user_id, route, key) do update
set body_sha256 = excluded.body_sha256, status = null, response = null, created_at = now()
where taken.created_at < now() - interval '24 hours'
returning cu_metadata.is_retired($5) as is_retired;


-- name: find_response
-- $1 user, $2 route, $3 key
select body_sha256, status, response
from cu_metadata.idempotency_keys
where user_id = $1 and route = $2 and key = $3;


-- name: store_response
-- $1 user, $2 route, $3 key, $4 HTTP status, $5 body
update cu_metadata.idempotency_keys set status = $4, response = $5
where user_id = $1 and route = $2 and key = $3;
