-- Accounts and sources as they are now.


-- name: account_role
-- No row for an account that is deleted, or neither REGULAR nor ADMIN. $1 user
select role from cu_metadata.active_users where user_id = $1;


-- name: is_bound_source
-- Whether the source was bound to something at some time. $1 source
select exists (select from cu_metadata.bindings where source_id = $1) as is_bound;
