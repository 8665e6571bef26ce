-- Cursors: for each spool (source and epoch) the last batch applied, and its response.


-- name: lock_cursor
-- The lock makes a resend wait for the standby that the batch itself may not have waited for.
-- `is_known`: the source was bound to something at some time. $1 source, $2 epoch
select
    last_batch,
    digest,
    response,
    exists (select from cu_metadata.bindings where bindings.source_id = $1) as is_known
from cu_metadata.cursors
where source_id = $1 and epoch = $2
for update;


-- name: insert_cursor
-- No row if another replica inserts it meanwhile, which is waited for. A key that was replaced has no
-- cursors left, so that each of its batches comes here. $1 source, $2 epoch
insert into cu_metadata.cursors (source_id, epoch, last_batch, digest, response)
values ($1, $2, 0, '', '')
on conflict (source_id, epoch) do nothing
returning
    last_batch,
    digest,
    response,
    exists (select from cu_metadata.bindings where bindings.source_id = $1) as is_known,
    cu_metadata.is_retired($1) as is_retired;


-- name: delete_old_epochs
-- A spool has one epoch at a time; a few older cursors are kept for copies that come back.
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
-- $1 source, $2 epoch, $3 batch, $4 digest, $5 response
update cu_metadata.cursors
set last_batch = $3, digest = $4, response = $5, updated_at = now()
where source_id = $1 and epoch = $2;
