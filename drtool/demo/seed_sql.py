"""Write rows as the SQL script that fills an empty database: schema.sql, ``COPY``, sequences."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from importlib import resources

Cell = None | bool | int | str | bytes | datetime | tuple[int, ...]

_ESCAPES = str.maketrans({"\\": "\\\\", "\n": "\\n", "\t": "\\t", "\r": "\\r"})

# COPY does not advance sequences; without this the first row that a user makes would meet a taken id.
_SEQUENCES = """
DO $$
DECLARE
  owned record;
BEGIN
  FOR owned IN
    SELECT t.oid::regclass AS name, pg_get_serial_sequence(t.oid::regclass::text, 'id') AS sequence
    FROM pg_class t JOIN pg_attribute a ON a.attrelid = t.oid AND a.attname = 'id'
    WHERE t.relnamespace = 'public'::regnamespace AND t.relkind IN ('r', 'p')
  LOOP
    IF owned.sequence IS NOT NULL THEN
      EXECUTE format('SELECT setval(%L, greatest(max(id), 1), count(*) > 0) FROM %s', owned.sequence, owned.name);
    END IF;
  END LOOP;
END
$$;
"""


@dataclass(frozen=True, slots=True)
class Table:
    """Rows for ``COPY``; ``name`` is without its schema, ``columns`` is one string with blanks between."""

    name: str
    columns: str
    rows: Iterable[Sequence[Cell]]


def script(tables: Iterable[Table]) -> str:
    """Write everything in one transaction. Tables come in the order of their foreign keys."""
    schema = resources.files("drtool.demo").joinpath("schema.sql").read_text(encoding="utf-8")
    parts = ["BEGIN;\n", "SET client_min_messages = warning;\n", schema]
    for table in tables:
        parts.append(f"COPY public.{table.name} ({', '.join(table.columns.split())}) FROM stdin;\n")
        parts += ["\t".join(map(_cell, row)) + "\n" for row in table.rows]
        parts.append("\\.\n")
    return "".join([*parts, _SEQUENCES, "COMMIT;\n"])


def _cell(value: Cell) -> str:
    match value:
        case None:
            return "\\N"
        case bool():
            return "t" if value else "f"
        case bytes():
            return "\\\\x" + value.hex()
        case tuple():
            return "{" + ",".join(map(str, value)) + "}"
        case _:
            return str(value).translate(_ESCAPES)
