-- migrate:up

-- What the service needs of tables that it may not read: each function runs as the tables' owner and
-- returns the rows of one question. So a fault in a query of the service lists no e-mail addresses, no
-- datasets and no workflows' contents. The search path is fixed, so that no other schema's functions
-- or operators are called with the owner's rights.


-- A workflow's content, if the user may read the workflow.
create function cu_metadata.workflow_content(workflow int, reader int, reads_everything boolean)
returns text
language sql stable security definer set search_path = pg_catalog, pg_temp as $$
    select w.content
    from texera_db.workflow w
    where w.wid = workflow
      and (reads_everything or exists (
          select from cu_metadata.workflow_readers r
          where r.user_id = reader and r.workflow_id = w.wid
      ))
$$;


-- Of the datasets that the arrays name, those of others that may not be downloaded, by their position
-- from 1. Both sides of the comparison are lowered by the database, whose locale decides what is
-- lower case.
create function cu_metadata.restricted_datasets(
    reader int, owner_emails text[], dataset_names text[]
)
returns table (place bigint, owner_email text, dataset_name text)
language sql stable security definer set search_path = pg_catalog, pg_temp as $$
    select named.place, owner.email, dataset.name
    from unnest(owner_emails, dataset_names)
        with ordinality as named (owner_email, dataset_name, place)
    join texera_db."user" owner on lower(owner.email) = lower(named.owner_email)
    join texera_db.dataset dataset
        on dataset.owner_uid = owner.uid and lower(dataset.name) = lower(named.dataset_name)
    where owner.uid <> reader and not dataset.is_downloadable
    order by owner.email, dataset.name
$$;


revoke execute on function
    cu_metadata.workflow_content(int, int, boolean),
    cu_metadata.restricted_datasets(int, text[], text[])
from public;

-- migrate:down
-- Forward only: a later migration undoes what has to go.
