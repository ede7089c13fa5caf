"""Lists of values in a condition, however long they are."""

import json
from collections.abc import Collection
from typing import Any

from sqlalchemy import ARRAY, Text, any_, bindparam, func, select


def is_one_of(dialect: str, column: Any, values: Collection[str]) -> Any:
    """Whether a column is one of them, with one parameter: databases limit the number of parameters."""
    ordered = sorted(set(values))
    if dialect == "postgresql":
        return column == any_(bindparam(None, ordered, type_=ARRAY(Text)))
    listed = func.json_each(json.dumps(ordered)).table_valued("value")
    return column.in_(select(listed.c.value))
