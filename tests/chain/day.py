"""A day of a hospital in minutes: modalities, workstations and commitment at once, while certificates and settings
change and the disk fills up and is emptied again. Nothing is lost, and what a process needs does not grow.
"""

import contextlib
import random
import ssl
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydicom.dataset import Dataset
from pynetdicom import AE

from tests.chain.arranging import eventually, free_port
from tests.chain.receiving import Modality, Server, assert_all_placed, assert_safe, told
from tests.dimse.arranging_commitment import Requester, ask_on
from tests.dimse.arranging_receiver import CT, EXPLICIT, Sender
from tests.dimse.arranging_tls import Authority
from vna.dimse.receiver import Receiver
from vna.dimse.status import read_statuses, together
from vna.platform import free_bytes
from vna.site import RemoteServer, Site, publish_site
from vna.spool import Spool

FIND, MOVE = "1.2.840.10008.5.1.4.1.2.2.1", "1.2.840.10008.5.1.4.1.2.2.2"
OUT_OF_RESOURCES, RESOURCE_LIMITATION = 0xA700, 0x0213
HOURS = 24
WORKSTATION, ARCHIVE = "WORKSTATION", "MODALITIES"
IMAGES_A_STUDY = 20
RESERVE = 32 * 2**20
MORE_THREADS, MORE_FILES, MORE_MIB = 2, 6, 25.0
"""How much more a process may need in the evening than in the morning."""


class Scanner(Modality):
    """A modality that is known, asks for commitment of each study it has sent, and may speak TLS."""

    def __init__(
        self, number: int, port: int, tls: "Callable[[], ssl.SSLContext] | None" = None, **of: Any
    ) -> None:
        super().__init__(number, port, **of)
        self._tls = tls
        self.certificates: Counter[int] = Counter()

    @property
    def aet(self) -> str:
        return f"MODALITY{self.number}"

    def connect(self) -> Sender:
        if self._tls is None:
            return super().connect()
        sender = Sender(self.port, [(CT, [EXPLICIT])], self._tls(), calling=self.aet)
        shown = sender.socket.getpeercert()  # type: ignore[attr-defined]
        self.certificates[int(shown["serialNumber"], 16)] += 1
        return sender

    def whole_studies(self) -> list[str]:
        """Study Instance UIDs of which every image was acknowledged."""
        counts = Counter(sop.rpartition(".1.")[0] for sop in list(self.acknowledged))
        return [study for study, count in counts.items() if count == IMAGES_A_STUDY]


@dataclass
class Needs:
    """Of one process: threads, open files, and memory in MiB."""

    threads: int
    files: int
    mib: float

    @classmethod
    def of(cls, pid: int) -> "Needs":
        status = dict(
            line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines() if ":" in line
        )
        files = len(list(Path(f"/proc/{pid}/fd").iterdir()))
        return cls(int(status["Threads"]), files, int(status["VmRSS"].split()[0]) / 1024)

    def __str__(self) -> str:
        return f"{self.threads} threads, {self.files} files, {self.mib:.0f} MiB"


@dataclass
class Day:
    """One hospital. `hour` = how many seconds one lasts."""

    folder: Path
    disk: Path
    hour: float
    seed: int = 1
    found: int = 0
    moved: int = 0
    asked: set[str] = field(default_factory=set)
    archive: RemoteServer = field(init=False)
    troubles: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.authority = Authority(self.folder)
        files = self.authority.server_files()
        self.tls_port = free_port()
        self.server = Server(
            self.disk / "home",
            BACKUPDR_SCP_TLS_PORT=str(self.tls_port),
            BACKUPDR_SCP_TLS_CERT=str(files.cert),
            BACKUPDR_SCP_TLS_KEY=str(files.key),
            BACKUPDR_SCP_TLS_CA=str(files.ca),
            BACKUPDR_RESERVE_BYTES=str(RESERVE),
        )
        self.server.options.remove("--open")
        caller = self.authority.caller("ct3.example")
        port = self.server.port
        self.scanners = [
            Scanner(1, port, size=200_000, pause=0.25),
            Scanner(2, port, size=10_000, pause=0.05),
            Scanner(3, self.tls_port, lambda: caller, size=50_000, pause=0.1),
        ]
        self.guest = Modality(4, port, pause=0.5, per_association=1)
        self.requester = Requester(ARCHIVE)
        self.workstation = Receiver(
            Spool(self.folder / "workstation", 0), aet=WORKSTATION, host="127.0.0.1", port=0
        )
        self.chance = random.Random(self.seed)
        self.over = threading.Event()

    # -- who is known

    def publish(self, *, guest: bool = False) -> None:
        aets = [scanner.aet for scanner in self.scanners] + ["MODALITY4"] * guest
        remotes = {
            aet.lower(): RemoteServer(
                name=aet.lower(), aet=aet, host="127.0.0.1", port=1, addresses=("127.0.0.1",)
            )
            for aet in aets
        }
        workstation = RemoteServer(
            name="workstation", aet=WORKSTATION, host="127.0.0.1", port=self.workstation.port
        )
        site = Site(remotes={**remotes, "workstation": workstation, "archive": self.archive})
        publish_site(self.server.settings, site)

    # -- what people do all day

    def query(self) -> None:
        """A study that was sent is found as soon as it is placed, with all its images."""
        study = self._some_study()
        if study is None:
            return
        keys = Dataset()
        keys.QueryRetrieveLevel, keys.StudyInstanceUID = "STUDY", study
        keys.NumberOfStudyRelatedInstances, keys.PatientID = "", ""

        def ask() -> bool:
            with self._association(FIND) as association:
                answers = [each for status, each in association.send_c_find(keys, FIND) if each is not None]
            return [int(each.NumberOfStudyRelatedInstances) for each in answers] == [IMAGES_A_STUDY]

        if not eventually(ask, 45):
            raise AssertionError(f"{study} was acknowledged and is not found whole")
        self.found += 1

    def retrieve(self) -> None:
        """A whole study comes to the workstation, byte for byte."""
        study = self._some_study()
        if study is None:
            return
        keys = Dataset()
        keys.QueryRetrieveLevel, keys.StudyInstanceUID = "STUDY", study

        def move() -> bool:
            with self._association(MOVE) as association:
                *_, (status, _) = association.send_c_move(keys, WORKSTATION, MOVE)
            done = status.get("NumberOfCompletedSuboperations", 0)
            return status.Status == 0 and done == IMAGES_A_STUDY

        if not eventually(move, 45):
            raise AssertionError(f"{study} was acknowledged and cannot be retrieved whole")
        acknowledged = told([*self.scanners])
        spool = self.workstation.spool
        for folder in list(spool.folders()):
            for file in spool.received(folder):
                assert acknowledged[file.sop_instance_uid] == file.dataset_sha256, "not what was sent"
                spool.remove_received(file)
                self.moved += 1
            spool.sweep(folder)

    def commit(self) -> None:
        """Every image of a study is committed, once it is placed; who asks waits for it, or hangs up, by turns."""
        study = self._some_study()
        if study is None or study in self.asked:
            return
        references = [(CT, f"{study}.1.{number}") for number in range(IMAGES_A_STUDY)]
        with self.requester.asking(self.server.port) as association:
            status = ask_on(association, *references, transaction=f"{study}.9")
            if status == RESOURCE_LIMITATION:  # the disk is full: asked again later
                return
            assert status == 0, f"commitment was answered {status}"
            self.asked.add(study)
            if len(self.asked) % 2:
                eventually(lambda: study in self.committed(), self.hour)

    def committed(self) -> set[str]:
        """The studies that were reported, each as a whole."""
        for report in list(self.requester.reports):
            assert not report.failed, f"not committed though acknowledged: {report.failed}"
            assert len(report.committed) == IMAGES_A_STUDY
        return {report.transaction.removesuffix(".9") for report in list(self.requester.reports)}

    def _some_study(self) -> str | None:
        whole = [study for scanner in self.scanners for study in scanner.whole_studies()]
        return self.chance.choice(whole) if whole else None

    @contextlib.contextmanager
    def _association(self, sop_class: Any) -> Iterator[Any]:
        entity = AE(WORKSTATION)
        entity.add_requested_context(sop_class)
        association = entity.associate("127.0.0.1", self.server.port, ae_title="BACKUPDR")
        try:
            assert association.is_established, "the workstation was refused"
            yield association
        finally:
            association.release()

    def _again_and_again(self, work: Callable[[], None], pause: float) -> threading.Thread:
        def go_on() -> None:
            while not self.over.wait(pause):
                try:
                    work()
                except Exception as error:  # told at the end of the day, whatever it is
                    self.troubles.append(f"{work.__name__}: {error or type(error).__name__}")

        thread = threading.Thread(target=go_on, name=work.__name__, daemon=True)
        thread.start()
        return thread

    # -- what happens to it

    def renew_the_certificate(self) -> None:
        """A new one under the same names; the next association of the scanner with TLS is shown it."""
        scanner = self.scanners[2]
        before = set(scanner.certificates)
        self.authority.server_files()
        assert eventually(lambda: set(scanner.certificates) > before, 30), "the old certificate stays in use"

    def let_the_guest_in(self) -> None:
        assert not self.guest.acknowledged, "a stranger was let in"
        self.publish(guest=True)
        assert eventually(lambda: self.guest.acknowledged, 15), "the new settings had no effect within 15 s"

    def break_the_settings(self) -> None:
        path = self.server.settings.site_path
        whole = path.read_bytes()
        before = len(told([*self.scanners]))
        path.write_bytes(b"{ half of it")
        self.sleep(0.5)
        assert eventually(self._problem_is_told, 15), "nobody is told of the damaged settings"
        assert len(told([*self.scanners])) > before, "damaged settings stopped the modalities"
        path.write_bytes(whole)
        assert eventually(lambda: not self._problem_is_told(), 15)

    def _problem_is_told(self) -> bool:
        return any("site.json" in problem for problem in self.status().problems)

    def status(self) -> Any:
        return together(read_statuses(self.server.settings))

    def fill_the_disk(self) -> None:
        """Below the reserve every image is refused with 0xA700, and none of it is lost; then there is room again."""
        filler = self.disk / "filler"
        before = sum(scanner.refused[OUT_OF_RESOURCES] for scanner in self.scanners)
        with filler.open("wb") as file:
            while free_bytes(self.disk)[0] > RESERVE // 2:
                file.write(bytes(2**20))
                file.flush()
        full = eventually(lambda: sum(s.refused[OUT_OF_RESOURCES] for s in self.scanners) >= before + 5, 30)
        assert full, "a full disk refuses nothing"
        self.sleep(0.5)
        assert_safe(self.server, [*self.scanners], set())
        filler.unlink()
        went_on = len(told([*self.scanners]))
        assert eventually(lambda: len(told([*self.scanners])) > went_on + 10, 30), "it does not recover"

    def sleep(self, hours: float) -> None:
        time.sleep(hours * self.hour)

    # -- the day

    def live(self) -> str:
        """All of it; returns the sentence about it, or raises."""
        events: Mapping[int, Callable[[], None]] = {
            3: self.renew_the_certificate,
            5: self.let_the_guest_in,
            7: self.break_the_settings,
            9: self.renew_the_certificate,
            11: self.fill_the_disk,
            14: self.renew_the_certificate,
            17: self.fill_the_disk,
            20: self.renew_the_certificate,
        }
        with self.workstation, self.requester.listening() as self.archive:
            self.publish()
            with self.server.running():
                morning = evening = {}
                people = self._begin()
                for hour in range(HOURS):
                    ends = time.monotonic() + self.hour
                    if hour in events:
                        events[hour]()
                    if hour == HOURS // 3:
                        morning = self.needs()
                    time.sleep(max(0.0, ends - time.monotonic()))
                evening = self.needs()
                said = self._end(people)
        self._compare(morning, evening)
        told_of = ", ".join(
            f"{name} {evening[name]} (in the morning {need})" for name, need in morning.items()
        )
        return f"{said}; in the evening {told_of}"

    def _begin(self) -> list[threading.Thread]:
        for modality in (*self.scanners, self.guest):
            modality.start()
        return [
            self._again_and_again(self.query, self.hour / 10),
            self._again_and_again(self.retrieve, self.hour / 5),
            self._again_and_again(self.commit, self.hour / 5),
        ]

    def _end(self, people: list[threading.Thread]) -> str:
        self.over.set()
        for thread in people:
            thread.join(120)
        modalities = [*self.scanners, self.guest]
        for modality in modalities:
            modality.end()
        status = self.status()
        assert_all_placed(self.server, modalities, 120)
        assert not self.troubles, self.troubles[:5]
        eventually(lambda: self.committed() == self.asked, 90)
        assert self.committed() == self.asked, f"no report of {self.asked - self.committed()}"
        assert min(self.found, self.moved, len(self.asked)) > 0, (self.found, self.moved, len(self.asked))
        assert sum(status.refused.values()) > 0, "the guest was not counted while nobody knew it"
        assert status.refused_instances, "no instance was refused by the full disk"
        return (
            f"{len(told(modalities))} images of {len(modalities)} modalities, {self.found} queries, {self.moved} "
            f"images retrieved, {len(self.asked)} studies committed, "
            f"{len(self.scanners[2].certificates)} certificates, {sum(status.refused.values())} associations and "
            f"{sum(status.refused_instances.values())} instances refused; nothing lost"
        )

    def needs(self) -> dict[str, Needs]:
        """The least of a few looks: between two associations."""
        assert self.server.process is not None
        found: dict[str, Needs] = {}
        for name, pid in {"server": self.server.process.pid, "indexer": self.server.indexer()}.items():
            looks = []
            for _ in range(20):
                looks.append(Needs.of(pid))
                time.sleep(0.1)
            found[name] = Needs(
                min(look.threads for look in looks),
                min(look.files for look in looks),
                min(look.mib for look in looks),
            )
        return found

    def _compare(self, morning: Mapping[str, Needs], evening: Mapping[str, Needs]) -> None:
        for name, before in morning.items():
            after = evening[name]
            grown = (after.threads - before.threads, after.files - before.files, after.mib - before.mib)
            allowed = (MORE_THREADS, MORE_FILES, MORE_MIB)
            assert all(more <= most for more, most in zip(grown, allowed, strict=True)), (
                f"the {name} had {before} in the morning and {after} in the evening"
            )
