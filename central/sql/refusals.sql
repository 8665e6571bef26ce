-- The log of refused writes.


-- name: add_refusals
-- $1 source, $2 rows that a source may add per hour, $3 rows that a user's sources may add together,
-- $4 rows that all sources of unknown users may add together (anyone can make keys); arrays: $5 user
-- id, $6 execution id, $7 operation, $8 slug, $9 detail. Returns the places in the arrays of those
-- that are beyond one of the caps, from 1.
with refused as (
    select
        *,
        rank() over (partition by user_id order by ordinal) as ordinal_of_user
    from unnest($5::int[], $6::int[], $7::text[], $8::text[], $9::text[])
        with ordinality as refused (user_id, execution_id, op, slug, detail, ordinal)
), callers as (
    select
        coalesce(user_id, 0) as user_key,
        case
            when user_id is null then $4::bigint - (
                select count(*)
                from cu_metadata.refusals earlier
                where earlier.user_id is null and earlier.refused_at > now() - interval '1 hour'
            )
            else $3::bigint - (
                select count(*)
                from cu_metadata.refusals earlier
                where earlier.user_id = caller.user_id
                  and earlier.refused_at > now() - interval '1 hour'
            )
        end as remaining
    from (select distinct user_id from refused) caller
), recorded as (
    select refused.*
    from refused
    join callers on callers.user_key = coalesce(refused.user_id, 0)
    where ordinal_of_user <= callers.remaining
      and ordinal <= $2::bigint - (
          select count(*)
          from cu_metadata.refusals earlier
          where earlier.source_id = $1 and earlier.refused_at > now() - interval '1 hour'
      )
), added as (
    insert into cu_metadata.refusals (source_id, user_id, execution_id, op, slug, detail)
    select $1, user_id, execution_id, op, slug, detail
    from recorded
    order by ordinal
)
select ordinal from refused
except
select ordinal from recorded;


-- name: add_counts
-- Of this hour; arrays: $1 user id (0: unknown), $2 slug, $3 how many
insert into cu_metadata.refusal_counts (hour, user_id, slug, refused_count)
select date_trunc('hour', now()), user_id, slug, refused_count
from unnest($1::int[], $2::text[], $3::bigint[]) as counted (user_id, slug, refused_count)
order by user_id, slug
on conflict (hour, user_id, slug) do update
set refused_count = refusal_counts.refused_count + excluded.refused_count;


-- name: list_refusals
-- Those that match every filter that is not null, the newest first. Those beyond the caps are one
-- row per hour, user and slug, without a source, and of no execution or unit.
-- $1 user, $2 execution, $3 computing unit, $4 seconds back, $5 limit
select
    refusal.refused_at,
    refusal.source_id,
    refusal.user_id,
    binding.computing_unit_id,
    refusal.execution_id,
    refusal.op,
    refusal.slug,
    refusal.detail,
    1::bigint as refused_count
from cu_metadata.refusals refusal
left join cu_metadata.bindings binding using (execution_id, source_id)
where ($1::int is null or refusal.user_id = $1)
  and ($2::int is null or refusal.execution_id = $2)
  and ($3::int is null or binding.computing_unit_id = $3)
  and ($4::float8 is null or refusal.refused_at > now() - make_interval(secs => $4))
union all
select hour, null, nullif(user_id, 0), null, null, null, slug, null, refused_count
from cu_metadata.refusal_counts
where ($1::int is null or user_id = $1)
  and $2::int is null
  and $3::int is null
  and ($4::float8 is null or hour > now() - make_interval(secs => $4 + 3600))
order by refused_at desc
limit $5;
