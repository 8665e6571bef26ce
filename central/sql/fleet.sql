-- The fleet of sidecars as an operator sees it (`central/store/fleet.py`). Read only.


-- name: list_sources
-- Sources with open runs, those that renewed their leases longest ago first, each with the totals
-- of all. Lagging: no renewal for half a lease; silent: for a whole one. $1 seconds of a lease,
-- $2 limit
with sources as (
    select
        source_id,
        min(computing_unit_id) as computing_unit_id,
        count(*) as open_count,
        extract(epoch from now() - min(expires_at))::float8 + $1::float8 as renewed_s_ago
    from cu_metadata.leases
    group by source_id
)
select
    source_id,
    computing_unit_id,
    open_count,
    renewed_s_ago,
    count(*) over () as source_count,
    sum(open_count) over ()::bigint as run_count,
    count(*) filter (where renewed_s_ago > $1::float8 / 2 and renewed_s_ago <= $1) over ()
        as lagging_count,
    count(*) filter (where renewed_s_ago > $1) over () as silent_count
from sources
order by renewed_s_ago desc
limit $2;


-- name: count_refusals
-- By slug, those beyond the caps included: their hour began in the period. $1 seconds back
select slug, sum(refused_count)::bigint as refused_count
from (
    select slug, count(*) as refused_count
    from cu_metadata.refusals
    where refused_at > now() - make_interval(secs => $1)
    group by slug
    union all
    select slug, refused_count
    from cu_metadata.refusal_counts
    where hour > now() - make_interval(secs => $1)
) refused
group by slug
order by refused_count desc;


-- name: count_closures
-- By reason, of those that no end of the run's own has replaced. $1 seconds back
select coalesce(reason, 'unknown') as reason, count(*) as closed_count
from cu_metadata.terminal_statuses
where provisional and recorded_at > now() - make_interval(secs => $1)
group by 1
order by closed_count desc;


-- name: list_closures
-- Those that match every filter that is not null, the newest first, with the unit and user of the
-- runner. $1 execution, $2 computing unit, $3 seconds back, $4 limit
select
    closed.recorded_at as closed_at,
    closed.execution_id,
    runner.computing_unit_id,
    runner.user_id,
    coalesce(closed.reason, 'unknown') as reason
from cu_metadata.terminal_statuses closed
left join cu_metadata.bindings runner
    on runner.execution_id = closed.execution_id and runner.may_set_status
where closed.provisional
  and ($1::int is null or closed.execution_id = $1)
  and ($2::int is null or runner.computing_unit_id = $2)
  and ($3::float8 is null or closed.recorded_at > now() - make_interval(secs => $3))
order by closed.recorded_at desc
limit $4;
