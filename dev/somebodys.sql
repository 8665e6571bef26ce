-- Anything in the database that is not Postgres' own nor an extension's; null in an empty database.
SELECT kind || ' ' || name
FROM (
    SELECT 'schema' AS kind, nspname::text AS name, oid AS object, 'pg_namespace'::regclass AS catalog
    FROM pg_namespace
    WHERE nspname NOT IN ('public', 'information_schema') AND nspname NOT LIKE 'pg\_%'
    UNION ALL
    SELECT 'relation', relname, oid, 'pg_class'::regclass
    FROM pg_class
    WHERE relnamespace = 'public'::regnamespace
    UNION ALL
    SELECT 'function', proname, oid, 'pg_proc'::regclass
    FROM pg_proc
    WHERE pronamespace = 'public'::regnamespace
    UNION ALL
    SELECT 'type', typname, oid, 'pg_type'::regclass
    FROM pg_type
    WHERE typnamespace = 'public'::regnamespace
) AS found
WHERE NOT EXISTS (
    SELECT FROM pg_depend
    WHERE pg_depend.objid = found.object AND pg_depend.classid = found.catalog AND deptype = 'e'
)
ORDER BY kind, name
LIMIT 1
