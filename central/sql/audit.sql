-- Audit log of refused writes.


-- name: add_refusals
-- $1 source, $2 rows that a source may add per hour, $3 rows that all sources of unknown users may add
-- together (anyone can make keys); arrays: $4 user id, $5 execution id, $6 operation, $7 slug,
-- $8 detail
insert into cu_metadata.refusals (source_id, user_id, execution_id, op, slug, detail)
select $1, user_id, execution_id, op, slug, detail
from unnest($4::int[], $5::int[], $6::text[], $7::text[], $8::text[])
    with ordinality as refused (user_id, execution_id, op, slug, detail, ordinal)
where ordinal <= $2::bigint - (
        select count(*)
        from cu_metadata.refusals earlier
        where earlier.source_id = $1 and earlier.refused_at > now() - interval '1 hour'
    )
  and (
      user_id is not null
      or ordinal <= $3::bigint - (
          select count(*)
          from cu_metadata.refusals earlier
          where earlier.user_id is null and earlier.refused_at > now() - interval '1 hour'
      )
  )
order by ordinal;
