-- name: account_role
-- $1 user. No row if the account is gone, or neither REGULAR nor ADMIN.
select role from cu_metadata.active_users where user_id = $1;
