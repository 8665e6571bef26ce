-- Accounts as they are now.


-- name: account_role
-- No row for an account that is deleted, or neither REGULAR nor ADMIN. $1 user
select role from cu_metadata.active_users where user_id = $1;
