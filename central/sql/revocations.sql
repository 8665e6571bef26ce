-- Bindings as an operator sees and ends them. A filter that is null is not asked for.


-- name: list_bindings
-- $1 execution, $2 source, $3 user, $4 workflow, $5 computing unit,
-- $6 state: open (not revoked, the run unfinished), live (open, its lease alive), revoked or all,
-- $7 limit. Newest first.
select
    binding.execution_id,
    binding.source_id,
    binding.user_id,
    binding.workflow_id,
    binding.computing_unit_id,
    execution.status as status_code,
    binding.created_at,
    lease.expires_at as lease_expires_at,
    coalesce(lease.expires_at > now(), false) as lease_is_alive,
    binding.revoked_at,
    binding.revoked_reason
from cu_metadata.bindings binding
left join texera_db.workflow_executions execution on execution.eid = binding.execution_id
left join cu_metadata.leases lease
    on lease.execution_id = binding.execution_id and lease.source_id = binding.source_id
where ($1::int is null or binding.execution_id = $1)
  and ($2::text is null or binding.source_id = $2)
  and ($3::int is null or binding.user_id = $3)
  and ($4::int is null or binding.workflow_id = $4)
  and ($5::int is null or binding.computing_unit_id = $5)
  and case $6::text
      when 'all' then true
      when 'revoked' then binding.revoked_at is not null
      else binding.revoked_at is null
          and execution.status not in (3, 4, 5)
          and ($6 = 'open' or lease.expires_at > now())
  end
order by binding.created_at desc, binding.execution_id desc
limit $7;


-- name: revoke_bindings
-- $1 execution, $2 source, $3 user, $4 workflow, $5 computing unit, $6 reason. A batch that has
-- locked its executions before this commits is still applied.
update cu_metadata.bindings
set revoked_at = now(), revoked_reason = $6
where revoked_at is null
  and ($1::int is null or execution_id = $1)
  and ($2::text is null or source_id = $2)
  and ($3::int is null or user_id = $3)
  and ($4::int is null or workflow_id = $4)
  and ($5::int is null or computing_unit_id = $5)
returning execution_id, source_id, user_id;
