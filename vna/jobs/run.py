"""One backup run and all it stands on: source, unit, spool, catalog, ledger.

A plain object that the steps (find, filter, plan, move, index, verify) are given; it is opened by whoever
runs them, a Prefect flow or a notebook.
"""

import contextlib
import threading
from collections import Counter
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from vna.catalog import Catalog
from vna.dimse import OurNode, SourceGate
from vna.errors import PeerError
from vna.indexing import Indexer
from vna.jobs.filters import Filter
from vna.jobs.ledger import Ledger, LivingRun
from vna.jobs.waiting import wait_until_quiet
from vna.settings import Settings
from vna.site import RemoteServer, RetrieveMethod, load_site
from vna.spool import Spool
from vna.storage import StorageUnit, open_unit

if TYPE_CHECKING:
    from vna.jobs.planning import StudyPlan


class Order(StrEnum):
    """In which order of study date a run takes studies."""

    ascending = "ascending"
    descending = "descending"


@dataclass(frozen=True)
class Request:
    """What is asked of a run."""

    source: str
    unit: str
    filters: Sequence[Filter] = ()
    order: Order = Order.ascending
    recheck: bool = False

    def as_row(self) -> dict[str, object]:
        """For the ledger: keywords without their values, which may name a patient."""
        return {
            "filters": [condition.keyword for condition in self.filters],
            "order": str(self.order),
            "recheck": self.recheck,
        }


@dataclass(slots=True)
class StudyWork:
    """A study between two steps: its plan, what the source said of what it did not send, whether it grew."""

    plan: "StudyPlan"
    said: str = ""
    grown: bool = False


class BackupRun:
    """An open run. Not a value: it holds connections, locks and the limits towards the source.

    `work` is the memory between two steps of a study; what must outlive the process is in the ledger. `stopping`
    is set when the run has to end: steps begin no further study then. `hopeless` = an error that every further
    retrieve from this source would end with.
    """

    def __init__(
        self,
        run_id: str,
        request: Request,
        settings: Settings,
        remote: RemoteServer,
        unit: StorageUnit,
        spool: Spool,
        catalog: Catalog,
        ledger: Ledger,
        indexer: Indexer,
        *,
        begun_before: bool = False,
    ) -> None:
        self.run_id = run_id
        self.request = request
        self.settings = settings
        self.remote = remote
        self.node = OurNode.from_settings(settings)
        self.unit = unit
        self.spool = spool
        self.catalog = catalog
        self.ledger = ledger
        self.indexer = indexer
        self.gate = SourceGate(remote)
        self.work: dict[str, StudyWork] = {}
        self.received_before: dict[str, Counter[str]] = {}
        self.begun_before = begun_before
        self.stopping = threading.Event()
        self.hopeless: PeerError | None = None

    @property
    def by_get(self) -> bool:
        return self.remote.retrieve is RetrieveMethod.get


@contextlib.contextmanager
def open_run(settings: Settings, run_id: str, request: Request) -> Generator[BackupRun]:
    """Open all a run needs, or raise one `BackupError` that says what is wrong before anything is begun."""
    site = load_site(settings)
    remote = site.remote(request.source)
    unit = open_unit(site.unit(request.unit), create=request.unit == settings.default_unit)
    spool = Spool(settings.spool_path, settings.reserve_bytes)
    spool.may_pull()
    catalog = Catalog(settings.catalog_database_url)
    try:
        catalog.migrate()
        ledger = Ledger(catalog.engine, settings.home)
        with LivingRun(ledger, settings.home, run_id), Indexer(settings) as indexer:
            indexer.sweep()  # what a kill cut off may fill the disk, and nobody else may be there to remove it
            begun_before = ledger.begin(run_id, request.source, request.unit, request.as_row())
            if begun_before:  # its first process may have been killed while the source was sending
                wait_until_quiet(spool, remote)
            yield BackupRun(
                run_id,
                request,
                settings,
                remote,
                unit,
                spool,
                catalog,
                ledger,
                indexer,
                begun_before=begun_before,
            )
    finally:
        catalog.close()
