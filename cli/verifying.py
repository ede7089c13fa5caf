"""What `backupdr verify` and `backupdr rebuild-catalog` do."""

import contextlib
from collections import Counter

from cli.console import VERIFY_NOTHING, say, show, warn
from cli.settings_of_site import known_name
from vna.errors import BackupError
from vna.settings import load_settings
from vna.site import load_site


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
                report = verify_unit(unit, catalog, level, spool)
            except BackupError as error:
                problems.append(str(error))
                continue
            totals.update({key: getattr(report, key) for key in VERIFY_NOTHING})
            problems += report.problems
    for problem in problems:
        warn(problem)
    fine = not problems and totals["checked"] == totals["ok"]
    say(_sentence(totals, level, fine=fine), as_json=as_json)
    if as_json:
        show({**totals, "problems": problems})
    return fine


def _sentence(totals: Counter[str], level: str, *, fine: bool) -> str:
    if not totals["checked"]:
        return "Nothing is stored yet." if fine else "Nothing could be verified."
    looked = f"{totals['checked']} copies looked at ({level})"
    if fine:
        return f"{looked}: all as they were stored."
    return (
        f"{looked}: {totals['ok']} as they were stored, {totals['missing']} missing, "
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
