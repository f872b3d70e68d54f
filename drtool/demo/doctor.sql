-- One JSON object per encrypted value: kind, name, value, iv, salt. Columns are recognised by their names and types, as
-- nobody keeps a list of them. Partitioned tables themselves are left out: their rows are in the partitions.
SET bytea_output = 'hex';

WITH columns AS (
  SELECT c.oid, format('%I.%I', n.nspname, c.relname) AS relation, a.attname::text AS name, a.atttypid::regtype::text AS type
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
  JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
  WHERE c.relkind = 'r' AND n.nspname NOT IN ('pg_catalog', 'information_schema')
), encrypted AS (
  SELECT relation, name, 'token' AS kind, 'NULL' AS iv, 'NULL' AS salt, 'true' AS condition
  FROM columns WHERE name LIKE '%\_encrypted'
  UNION ALL
  SELECT v.relation, v.name, 'attribute', quote_ident(i.name), coalesce(quote_ident(s.name), 'NULL'), 'true'
  FROM columns v JOIN columns i ON i.oid = v.oid AND i.name = v.name || '_iv'
  LEFT JOIN columns s ON s.oid = v.oid AND s.name = v.name || '_salt'
  WHERE v.name LIKE 'encrypted\_%'
  UNION ALL
  SELECT relation, name, 'message', 'NULL', 'NULL', format('%1$I ? ''p'' AND %1$I -> ''h'' ? ''iv''', name)
  FROM columns WHERE type = 'jsonb'
)
SELECT format(
  $$SELECT json_build_object('kind', %L, 'name', %L, 'value', %I, 'iv', %s, 'salt', %s) FROM %s
    WHERE %I IS NOT NULL AND %I::text NOT IN ('', '\x') AND %s$$,
  kind, name, name, iv, salt, relation, name, name, condition)
FROM encrypted ORDER BY relation, name \gexec
