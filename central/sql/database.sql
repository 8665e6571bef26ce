-- The database itself.


-- name: ping
-- Whether the database serves at all.
select 1;
