-- migrate:up

-- What central closed, for operators. Few rows: a run's own end replaces a provisional one.
create index terminal_statuses_closed on cu_metadata.terminal_statuses (recorded_at)
where provisional;

-- migrate:down
-- Forward only: a later migration undoes what has to go.
