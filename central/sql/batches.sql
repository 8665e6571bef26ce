-- The cursor of each spool (source and epoch): which batch was applied last, and its answer.


-- name: lock_cursor
-- $1 source, $2 epoch
select last_batch, digest, answer
from cu_metadata.cursors
where source_id = $1 and epoch = $2
for update;


-- name: begin_cursor
-- $1 source, $2 epoch. No row if another replica has begun it meanwhile: this call waits for it.
insert into cu_metadata.cursors (source_id, epoch, last_batch, digest, answer)
values ($1, $2, 0, '', '')
on conflict (source_id, epoch) do nothing;


-- name: advance_cursor
-- $1 source, $2 epoch, $3 batch, $4 digest, $5 the answer's bytes
update cu_metadata.cursors
set last_batch = $3, digest = $4, answer = $5, updated_at = now()
where source_id = $1 and epoch = $2;
