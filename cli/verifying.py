"""What `backupdr verify` and `backupdr rebuild-catalog` do."""

import contextlib
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from cli.console import VERIFY_NOTHING, say, show, warn
from cli.settings_of_site import known_name
from vna.errors import BackupError
from vna.settings import load_settings
from vna.site import load_site

if TYPE_CHECKING:
    from vna.catalog import Catalog
    from vna.spool import Spool
    from vna.storage import StorageUnit

SHOWN_PROBLEMS = 20
_FINE = {"exists": "all there", "size": "all there, as long as stored", "checksum": "all as they were stored"}
_GOOD = {"exists": "there", "size": "there and as long as stored", "checksum": "as they were stored"}


def verify(typed: str | None, level: str, *, as_json: bool) -> bool:
    """Whether every copy of the unit (of all units) is there as it was stored."""
    settings = load_settings()
    units = load_site(settings).units
    names = list(units) if typed is None else [known_name("storage unit", typed, units)]
    from vna.catalog import Catalog
    from vna.spool import Spool
    from vna.storage import open_unit
    from vna.verification.units import verify_unit

    spool = Spool(settings.spool_path, settings.reserve_bytes)
    totals: Counter[str] = Counter(dict.fromkeys(VERIFY_NOTHING, 0))
    problems: list[str] = []
    with contextlib.closing(Catalog(settings.catalog_database_url)) as catalog:
        catalog.migrate()
        for name in names:
            try:
                unit = open_unit(units[name], create=name == settings.default_unit)
                lost = lost_catalog(unit, catalog, spool)
                report = verify_unit(unit, catalog, level, spool)
            except BackupError as error:
                found = [str(error)]
            else:
                totals.update({key: getattr(report, key) for key in VERIFY_NOTHING})
                found = [lost] if lost else report.problems
            _tell(found)
            problems += found
    fine = not problems and totals["checked"] == totals["ok"]
    say(_sentence(totals, level, fine=fine), as_json=as_json)
    if as_json:
        show({**totals, "problems": problems})
    return fine


def lost_catalog(unit: "StorageUnit", catalog: "Catalog", spool: "Spool") -> str | None:
    """A sentence if the unit holds files and the catalog has no record of it at all; makes no tables."""
    from vna.verification.units import orphans

    if not _has_tables(catalog):
        files = unit.iterate()
    elif catalog.last_told(unit.name):
        return None
    else:
        files = orphans(unit, catalog, spool)
    if next(iter(files), None) is None:
        return None
    return (
        f"The catalog knows nothing of storage unit {unit.name} although it holds files; if the database was "
        f"lost, run `backupdr rebuild-catalog {unit.name}`."
    )


def _has_tables(catalog: "Catalog") -> bool:
    """Whether there are any, of this version or an older one."""
    if catalog.is_migrated():
        return True
    from sqlalchemy import inspect

    from vna.catalog.engine import sqlite_file
    from vna.catalog.tables import Copy

    file = sqlite_file(catalog.engine)
    if file is not None and not file.exists():  # a connection would make it
        return False
    return inspect(catalog.engine).has_table(str(Copy.__tablename__))


def _tell(problems: Sequence[str]) -> None:
    from vna.verification.units import MOST_PROBLEMS

    for problem in problems[:SHOWN_PROBLEMS]:
        warn(problem)
    more = len(problems) - SHOWN_PROBLEMS
    if len(problems) > MOST_PROBLEMS:  # the last one only counts those beyond the report's limit
        warn(f"… and more than {more - 1} more (the first {MOST_PROBLEMS} of them with --json).")
    elif more > 0:
        warn(f"… and {more} more (all of them with --json).")


def _sentence(totals: Counter[str], level: str, *, fine: bool) -> str:
    if not totals["checked"]:
        return "Nothing is stored yet." if fine else "Nothing could be verified."
    looked = f"{totals['checked']} copies looked at ({level})"
    if fine:
        return f"{looked}: {_FINE[level]}."
    return (
        f"{looked}: {totals['ok']} {_GOOD[level]}, {totals['missing']} missing, "
        f"{totals['differing_size']} of another size, {totals['differing_checksum']} of another content, "
        f"{totals['orphaned']} files that no record names."
    )


def rebuild(typed: str, *, as_json: bool) -> bool:
    """Whether the catalog could be rebuilt from the unit without a problem."""
    settings = load_settings()
    units = load_site(settings).units
    name = known_name("storage unit", typed, units)
    from vna.catalog import Catalog
    from vna.catalog.rebuild import rebuild_catalog
    from vna.storage import open_unit

    with contextlib.closing(Catalog(settings.catalog_database_url)) as catalog:
        catalog.migrate()
        report = rebuild_catalog(open_unit(units[name], create=name == settings.default_unit), catalog)
    for problem in report.problems:
        warn(problem)
    say(f"{report}", as_json=as_json)
    if as_json:
        show(
            {
                "state": "failed" if report.problems else "completed",
                "studies": report.studies,
                "instances": report.instances,
                "copies": report.copies,
                "problems": list(report.problems),
            }
        )
    return not report.problems
