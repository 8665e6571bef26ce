-- Since when renewals have been served without a break: one row for all replicas.


-- name: beat
-- Says that a replica serves. $1 the longest break in seconds that is none, $2 whether this
-- replica had to fail a renewal since it last said so. A moment in the future means that the
-- clock was set back (a failover): a break as well.
insert into cu_metadata.continuity as kept (only_row) values (true)
on conflict (only_row) do update
set served_since = case
        when $2
          or kept.beat_at < now() - make_interval(secs => $1)
          or kept.beat_at > now() + make_interval(secs => $1)
        then now()
        else kept.served_since
    end,
    beat_at = now()
returning extract(epoch from now() - served_since)::float8 as uninterrupted_s;
