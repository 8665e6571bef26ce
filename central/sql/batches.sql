-- The cursor of each spool (source and epoch): which batch was applied last, and its answer.


-- name: lock_cursor
-- $1 source, $2 epoch. Besides, whether the source was ever bound to anything.
select
    last_batch,
    digest,
    answer,
    exists (select from cu_metadata.bindings where bindings.source_id = $1) as is_known
from cu_metadata.cursors
where source_id = $1 and epoch = $2
for update;


-- name: begin_cursor
-- $1 source, $2 epoch. No row if another replica has begun it meanwhile: this call waits for it.
insert into cu_metadata.cursors (source_id, epoch, last_batch, digest, answer)
values ($1, $2, 0, '', '')
on conflict (source_id, epoch) do nothing
returning
    last_batch,
    digest,
    answer,
    exists (select from cu_metadata.bindings where bindings.source_id = $1) as is_known;


-- name: forget_epochs
-- A spool has one epoch at a time: of the others only a few are kept, for copies that come back.
-- $1 source, $2 how many are kept
delete from cu_metadata.cursors
where source_id = $1
  and epoch not in (
      select epoch from cu_metadata.cursors
      where source_id = $1
      order by updated_at desc
      limit $2
  );


-- name: advance_cursor
-- $1 source, $2 epoch, $3 batch, $4 digest, $5 the answer's bytes
update cu_metadata.cursors
set last_batch = $3, digest = $4, answer = $5, updated_at = now()
where source_id = $1 and epoch = $2;
