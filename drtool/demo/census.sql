-- One line kind|name|number|digest for everything in the database that is not the system's or an extension's.
-- What rows look like as text depends on these settings; a census must not.
SET timezone = 'UTC';
SET datestyle = 'ISO, MDY';
SET bytea_output = 'hex';
SET extra_float_digits = 1;
SET search_path = pg_catalog;

CREATE TEMPORARY VIEW our_relations AS
SELECT c.*, format('%I.%I', n.nspname, c.relname) AS name
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname NOT IN ('pg_catalog', 'information_schema')
  AND n.nspname NOT LIKE 'pg\_toast%' AND n.nspname NOT LIKE 'pg\_temp%'
  AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.objid = c.oid AND d.classid = 'pg_class'::regclass AND d.deptype = 'e');

SELECT format(
  $$SELECT 'table', %L, count(*), md5(coalesce(string_agg(line, E'\n' ORDER BY line COLLATE "C"), ''))
    FROM (SELECT r::text AS line FROM %s r) lines$$, name, name)
FROM our_relations WHERE relkind IN ('r', 'p')
ORDER BY name \gexec

SELECT 'sequence', format('%I.%I', schemaname, sequencename), coalesce(last_value::text, 'unused'), ''
FROM pg_sequences;

SELECT 'definition', name, '', md5(string_agg(definition, E'\n' ORDER BY definition COLLATE "C"))
FROM (
  SELECT 'schema ' || nspname AS name, pg_get_userbyid(nspowner) AS definition
  FROM pg_namespace WHERE nspname LIKE 'gitlab\_%'
  UNION ALL
  SELECT 'extension ' || extname, extversion FROM pg_extension
  UNION ALL
  SELECT 'relation ' || name, concat_ws(' ', relkind, relpersistence, pg_get_userbyid(relowner), reloptions::text,
         pg_get_partkeydef(oid), pg_get_expr(relpartbound, oid))
  FROM our_relations
  UNION ALL
  SELECT 'relation ' || r.name, concat_ws(' ', a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull,
         pg_get_expr(d.adbin, d.adrelid))
  FROM our_relations r JOIN pg_attribute a ON a.attrelid = r.oid AND a.attnum > 0 AND NOT a.attisdropped
  LEFT JOIN pg_attrdef d ON d.adrelid = r.oid AND d.adnum = a.attnum
  WHERE r.relkind IN ('r', 'p', 'v', 'm')
  UNION ALL
  SELECT 'index ' || r.name, pg_get_indexdef(r.oid) FROM our_relations r WHERE r.relkind IN ('i', 'I')
  UNION ALL
  SELECT format('constraint %s on %s', k.conname, r.name), pg_get_constraintdef(k.oid)
  FROM pg_constraint k JOIN our_relations r ON r.oid = k.conrelid
  UNION ALL
  SELECT format('trigger %s on %s', t.tgname, r.name), pg_get_triggerdef(t.oid)
  FROM pg_trigger t JOIN our_relations r ON r.oid = t.tgrelid WHERE NOT t.tgisinternal
  UNION ALL
  SELECT 'view ' || name, pg_get_viewdef(oid) FROM our_relations WHERE relkind IN ('v', 'm')
  UNION ALL
  SELECT 'function ' || p.oid::regprocedure::text, pg_get_functiondef(p.oid)
  FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace AND n.nspname NOT IN ('pg_catalog', 'information_schema')
  WHERE p.prokind <> 'a'
    AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.objid = p.oid AND d.classid = 'pg_proc'::regclass AND d.deptype = 'e')
) definitions
GROUP BY name ORDER BY name;
