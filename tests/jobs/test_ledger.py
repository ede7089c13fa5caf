"""The ledger shared by runs that go on at the same time."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from vna.catalog import Catalog
from vna.jobs.ledger import Ledger

WRITERS, ROUNDS = 4, 60


def test_runs_that_begin_and_write_at_once_never_find_the_database_locked(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'catalog.sqlite'}"
    with Catalog(url) as catalog:
        catalog.migrate()

    def begin_often(writer: int) -> int:
        with Catalog(url) as own:
            ledger = Ledger(own.engine, tmp_path)
            for number in range(ROUNDS):
                ledger.begin(f"run-{writer}-{number % 3}", "pacs", "default", {})
                ledger.lease(f"run-{writer}-0", "pacs", f"1.2.{writer}")
        return writer

    with ThreadPoolExecutor(WRITERS) as pool:
        assert sorted(pool.map(begin_often, range(WRITERS))) == list(range(WRITERS))


def test_a_run_is_over_when_it_ended_or_its_process_is_gone(tmp_path: Path) -> None:
    with Catalog(f"sqlite:///{tmp_path / 'catalog.sqlite'}") as catalog:
        catalog.migrate()
        ledger = Ledger(catalog.engine, tmp_path)
        assert ledger.is_over("never-begun")
        ledger.begin("run-1", "pacs", "default", {})
        assert not ledger.is_over("run-1")
        ledger.end("run-1", "failed", "sentence")
        assert ledger.is_over("run-1")
