"""Options that several commands share."""

from enum import StrEnum
from typing import Annotated

import typer

AS_JSON = Annotated[bool, typer.Option("--json", help="End with one JSON object, for scripts.")]


class Retrieve(StrEnum):
    """How images come."""

    move = "move"
    get = "get"


class Order(StrEnum):
    """In which order of study date."""

    ascending = "ascending"
    descending = "descending"


class Level(StrEnum):
    """How closely copies are looked at."""

    exists = "exists"
    size = "size"
    checksum = "checksum"
