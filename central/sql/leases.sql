-- Leases, renewed by id for all executions of a source at once.
--
-- Each id must be one look-up by primary key, whatever the planner estimates: laterals for reads,
-- and `any (array (...))`, whose length it cannot see, for writes. A plain join would scan tables
-- that were small when it was planned, or when many ids are given.


-- name: renew
-- Waits for no row lock: its holder is ending, binding or writing the execution, and the next
-- renewal is soon. $1 source, $2 execution ids, $3 lease in seconds, $4 minimal seconds between two
-- updates of `last_update_time`, or null for none, $5 the only computing unit, or null for any
with held as (
    select requested.execution_id
    from unnest($2::int[]) as requested (execution_id)
    cross join lateral (
        select execution_id from cu_metadata.leases
        where leases.execution_id = requested.execution_id
          and leases.source_id = $1
          and ($5::int is null or leases.computing_unit_id = $5)
        limit 1
        for update skip locked
    ) lease
    cross join lateral (
        select execution_id from cu_metadata.bindings
        where bindings.execution_id = requested.execution_id
          and bindings.source_id = $1
          and bindings.revoked_at is null
        limit 1
    ) binding
    cross join lateral (
        select eid from texera_db.workflow_executions
        where eid = requested.execution_id and not cu_metadata.is_terminal(status)
        limit 1
    ) execution
), seen as (
    update texera_db.workflow_executions
    set last_update_time = now() at time zone 'utc'
    where eid = any (array (
        select stale.eid
        from held
        cross join lateral (
            select eid from texera_db.workflow_executions
            where eid = held.execution_id
              and not cu_metadata.is_terminal(status)
              and $4::float8 is not null
              and (
                  last_update_time is null
                  or last_update_time < (now() at time zone 'utc') - make_interval(secs => $4)
              )
            limit 1
            for no key update skip locked
        ) stale
    ))
)
update cu_metadata.leases
set expires_at = now() + make_interval(secs => $3)
where execution_id = any (array (select execution_id from held))
returning execution_id;


-- name: read_lease_facts
-- Why leases were not renewed: one row per id. $1 source, $2 execution ids, $3 the only computing
-- unit, or null for any
select
    requested.execution_id,
    execution.status,
    ending.status as ending_status,
    coalesce(ending.provisional, false) as is_provisional,
    binding.execution_id is not null as is_bound,
    binding.revoked_at is not null as is_revoked,
    binding.revoked_reason,
    binding.may_set_status,
    binding.computing_unit_id,
    lease.execution_id is not null as is_leased
from unnest($2::int[]) as requested (execution_id)
left join lateral (
    select status from texera_db.workflow_executions
    where eid = requested.execution_id
    limit 1
) execution on true
left join lateral (
    select status, provisional from cu_metadata.terminal_statuses
    where terminal_statuses.execution_id = requested.execution_id
    limit 1
) ending on true
left join lateral (
    select execution_id, revoked_at, revoked_reason, may_set_status, computing_unit_id
    from cu_metadata.bindings
    where bindings.execution_id = requested.execution_id
      and bindings.source_id = $1
      and ($3::int is null or bindings.computing_unit_id = $3)
    limit 1
) binding on true
left join lateral (
    select execution_id from cu_metadata.leases
    where leases.execution_id = requested.execution_id and leases.source_id = $1
    limit 1
) lease on true;


-- name: insert_missing_leases
-- For executions that are open and bound but have no lease: somebody reopened them by SQL. $1 source, $2 execution ids, $3 their computing units, $4 lease in seconds
insert into cu_metadata.leases (execution_id, source_id, computing_unit_id, expires_at)
select execution_id, $1, computing_unit_id, now() + make_interval(secs => $4)
from unnest($2::int[], $3::int[]) as named (execution_id, computing_unit_id)
on conflict (execution_id) do nothing;


-- name: record_heartbeat
-- Reports that a replica serves renewals; one row for all replicas. The period starts again after a
-- gap, a failed renewal, or a clock that was set back (a failover: the last heartbeat is in the
-- future). $1 the longest gap in seconds, $2 the sources of which this replica failed a renewal since
-- the last heartbeat: one that is bound to nothing has nothing to renew. They are counted, because
-- a search for the first one may scan the table
insert into cu_metadata.renewal_availability as stored (only_row) values (true)
on conflict (only_row) do update
set available_since = case
        when exists (
            select from unnest($2::text[]) as failed (source_id)
            where (
                select count(*) from cu_metadata.bindings
                where bindings.source_id = failed.source_id and revoked_at is null
            ) > 0
        )
          or stored.heartbeat_at < now() - make_interval(secs => $1)
          or stored.heartbeat_at > now() + make_interval(secs => $1)
        then now()
        else stored.available_since
    end,
    heartbeat_at = now()
returning extract(epoch from now() - available_since)::float8 as available_s;
