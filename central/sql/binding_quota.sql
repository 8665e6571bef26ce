-- name: count_open_bindings
-- Executions that are bound and have not ended: those have a lease. $1 user, $2 source
select
    (
        select count(*)
        from cu_metadata.bindings binding
        join cu_metadata.leases lease
            on lease.execution_id = binding.execution_id and lease.source_id = binding.source_id
        where binding.user_id = $1 and binding.revoked_at is null
    ) as of_user,
    (
        select count(*)
        from cu_metadata.bindings binding
        join cu_metadata.leases lease
            on lease.execution_id = binding.execution_id and lease.source_id = binding.source_id
        where binding.source_id = $2 and binding.revoked_at is null
    ) as of_source;
