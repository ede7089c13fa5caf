"""Names: what people type, and what Prefect can store as a block's name."""

import re
import unicodedata

from vna.errors import SettingsError


def document_name(typed: str) -> str:
    """The block name for a name that a person typed: `Main_PACS` becomes `main-pacs`.

    Prefect allows lowercase letters, digits and dashes only. Every command takes either spelling; what is
    shown is this one. Raises `SettingsError` if nothing usable is left.
    """
    plain = unicodedata.normalize("NFKD", typed).encode("ascii", "ignore").decode("ascii").lower()
    name = re.sub(r"[^a-z0-9]+", "-", plain).strip("-")
    if not name:
        raise SettingsError(f"{typed!r} cannot be used as a name: it needs letters or digits.")
    return name
