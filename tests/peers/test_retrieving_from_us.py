"""Others retrieve from us: DCMTK's movescu and getscu, Orthanc at both ends, and the library over TLS; what they get
is what the catalog keeps, byte for byte.
"""

import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from dimse.arranging_tls import Authority
from peers.backing_up import Instance, got_by_getscu, instances_in, moved_by_movescu
from peers.dcmtk import DicomPeer
from peers.orthanc import Orthanc
from peers.programs import QUICK
from pydicom.dataset import Dataset
from pynetdicom import AE, evt
from pynetdicom.presentation import build_context, build_role

from tests.catalog.test_index_against_files import received
from tests.indexing.arranging import settings_of
from vna.catalog import Catalog, CatalogIndex
from vna.dimse import OurNode
from vna.dimse.answering_find import FindService
from vna.dimse.answering_retrieve import GetService, MoveService
from vna.dimse.receiver import Receiver
from vna.settings import Settings
from vna.simulated_pacs import (
    EXPLICIT_LITTLE,
    GeneratedStudy,
    write_studies,
)
from vna.site import RemoteServer, load_site
from vna.spool import Spool

RLE, DEFLATED = "1.2.840.10008.1.2.5", "1.2.840.10008.1.2.1.99"
STUDY_GET, STUDY_MOVE = "1.2.840.10008.5.1.4.1.2.2.3", "1.2.840.10008.5.1.4.1.2.2.2"


@dataclass
class Ours:
    """A server of ours over a filled catalog; `destinations` by AE title."""

    receiver: Receiver
    settings: Settings
    kept: set[Instance]
    generated: list[GeneratedStudy]
    destinations: dict[str, RemoteServer]

    @property
    def studies(self) -> list[str]:
        return [study.study_instance_uid for study in self.generated]

    def register(self, name: str, aet: str, port: int, **more: object) -> None:
        facts = {"name": name, "aet": aet, "host": "127.0.0.1", "port": port, **more}
        self.destinations[aet] = RemoteServer.model_validate(facts)

    def of(self, study: GeneratedStudy) -> set[Instance]:
        uids = {instance.sop_instance_uid for instance in study.instances}
        return {instance for instance in self.kept if instance[0] in uids}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> tuple[Settings, list[GeneratedStudy], set[Instance]]:
    """Studies of several modalities, each in a transfer syntax of its own, in storage and catalog."""
    folder = tmp_path_factory.mktemp("retrieving")
    generated = write_studies(folder / "files", 5, instances=6, size_bytes=4096)
    generated += write_studies(folder / "large", 1, instances=1, seed=2, size_bytes=2_000_000)
    paths = [instance.path for study in generated for instance in study.instances]
    settings = settings_of(folder / "home")
    received(settings, paths)
    return settings, generated, instances_in(paths)


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


@pytest.fixture
def ours(
    home: tuple[Settings, list[GeneratedStudy], set[Instance]], authority: Authority, tmp_path: Path
) -> Iterator[Ours]:
    settings, generated, kept = home
    catalog = Catalog(settings.catalog_database_url)
    index = CatalogIndex(catalog, lambda: load_site(settings).units)
    destinations: dict[str, RemoteServer] = {}
    node = OurNode("BACKUPDR", connect_timeout=2, acse_timeout=5, dimse_timeout=10)
    services = [FindService(index), MoveService(index, node, destinations.get), GetService(index)]
    spool = Spool(tmp_path / "spool", reserve_bytes=0)
    with Receiver(
        spool,
        aet="BACKUPDR",
        host="127.0.0.1",
        port=0,
        services=services,
        tls=authority.server_files(),
        tls_port=0,
    ) as receiver:
        yield Ours(receiver, settings, kept, generated, destinations)
    catalog.close()


@pytest.mark.peer("dcmtk")
def test_movescu_has_every_transfer_syntax_sent_to_storescp_byte_for_byte(
    ours: Ours, storescp: Callable[..., DicomPeer], tmp_path: Path
) -> None:
    theirs = storescp(aet="STORESCP")
    ours.register("storescp", "STORESCP", theirs.port)
    came = moved_by_movescu(theirs.folder, "BACKUPDR", ours.receiver.port, ours.studies, "STORESCP")
    assert came == set().union(*map(ours.of, ours.generated))
    assert len({syntax for _, syntax, _ in came}) >= 5


@pytest.mark.peer("dcmtk")
def test_movescu_is_told_that_it_names_an_unknown_destination(ours: Ours) -> None:
    ended = _scu("movescu", ours, ours.studies[0], "-aem", "NOBODY")
    assert ended.returncode != 0
    assert "0xa801" in ended.stdout.lower() or "MoveDestinationUnknown" in ended.stdout


@pytest.mark.peer("dcmtk")
def test_getscu_gets_what_is_kept_in_the_syntax_it_accepts(ours: Ours, tmp_path: Path) -> None:
    """It proposes several in one context, the uncompressed ones always; that which is kept is agreed."""
    further = {RLE: ["+xr"], DEFLATED: ["+xd"]}
    for study in ours.generated:
        (syntax,) = {instance[1] for instance in ours.of(study)}
        folder = tmp_path / study.study_instance_uid
        uids, options = [study.study_instance_uid], further.get(syntax, [])
        came = got_by_getscu(folder, "BACKUPDR", ours.receiver.port, uids, *options)
        assert came == ours.of(study), syntax


@pytest.mark.peer("dcmtk")
def test_getscu_that_accepts_another_syntax_gets_nothing_and_is_told_so(ours: Ours, tmp_path: Path) -> None:
    compressed = ours.generated[2]  # RLE
    folder = tmp_path / "got"
    folder.mkdir()
    ended = _scu("getscu", ours, compressed.study_instance_uid, "+B", "-od", str(folder))
    assert "(0000,0902) LO [6 kept in a syntax not accepted]" in ended.stdout
    assert "0xa702" in ended.stdout
    assert not list(folder.iterdir())


@pytest.mark.peer("dcmtk")
def test_movescu_to_a_destination_that_converts_nothing_is_told_how_many_failed(
    ours: Ours, storescp: Callable[..., DicomPeer]
) -> None:
    plain = storescp("+x=", aet="STORESCP")  # uncompressed only
    ours.register("storescp", "STORESCP", plain.port)
    ended = _scu("movescu", ours, ours.generated[2].study_instance_uid, "-aem", "STORESCP")
    assert "6 kept in a syntax not accepted" in ended.stdout
    assert not plain.files()


@pytest.mark.peer("dcmtk")
def test_a_destination_that_is_killed_has_all_that_was_counted_as_completed(
    ours: Ours, storescp: Callable[..., DicomPeer]
) -> None:
    theirs = storescp(aet="STORESCP")
    ours.register("storescp", "STORESCP", theirs.port)
    association = AE("ASKER").associate(
        "127.0.0.1", ours.receiver.port, contexts=[build_context(STUDY_MOVE)], ae_title="BACKUPDR"
    )
    answers = association.send_c_move(_study(ours.generated[0]), "STORESCP", STUDY_MOVE)
    for _ in range(2):
        next(answers)  # that nothing is sent yet, and that one is
    theirs.process.kill()
    *_, (status, _) = answers
    association.release()
    completed, failed = status.NumberOfCompletedSuboperations, status.NumberOfFailedSuboperations
    assert completed + failed == len(ours.generated[0].instances)
    assert status.Status == (0xB000 if failed else 0)  # it may have been quicker than the kill
    whole = instances_in(path for path in theirs.files() if path.stat().st_size > 4096)
    assert len(whole & ours.of(ours.generated[0])) >= completed >= 1


@pytest.mark.peer("orthanc")
def test_orthanc_asks_for_a_move_to_itself_and_has_all_of_it(
    ours: Ours, orthanc: Callable[..., Orthanc]
) -> None:
    theirs = orthanc({"BACKUPDR": ("127.0.0.1", ours.receiver.port)})
    ours.register("orthanc", "ORTHANC", theirs.port)
    for study in ours.generated:
        theirs.post(
            "/modalities/backupdr/move",
            {
                "Level": "Study",
                "Resources": [{"StudyInstanceUID": study.study_instance_uid}],
                "TargetAet": "ORTHANC",
            },
        )
    assert theirs.get("/statistics")["CountInstances"] == sum(
        len(study.instances) for study in ours.generated
    )


@pytest.mark.peer("orthanc")
def test_orthanc_finds_a_study_here_and_retrieves_it(ours: Ours, orthanc: Callable[..., Orthanc]) -> None:
    theirs = orthanc({"BACKUPDR": ("127.0.0.1", ours.receiver.port)})
    ours.register("orthanc", "ORTHANC", theirs.port)
    wanted = ours.generated[0]
    found = theirs.post(
        "/modalities/backupdr/query",
        {"Level": "Study", "Query": {"StudyInstanceUID": wanted.study_instance_uid}},
    )
    answers = theirs.get(f"{found['Path']}/answers")
    assert len(answers) == 1
    theirs.post(f"{found['Path']}/answers/{answers[0]}/retrieve", {"TargetAet": "ORTHANC"})
    assert theirs.get("/statistics")["CountInstances"] == len(wanted.instances)


def test_a_destination_that_speaks_tls_is_sent_to_by_tls(
    ours: Ours, authority: Authority, tmp_path: Path
) -> None:
    """The request by TLS too, as DCMTK's tools cannot."""
    target = Spool(tmp_path / "target", reserve_bytes=0)
    cert, key = authority.pair("sender", "sender.example")
    tls = {"ca_file": str(authority.ca_file), "cert_file": str(cert), "key_file": str(key)}
    with Receiver(
        target, aet="SECURE", host="127.0.0.1", port=0, tls=authority.server_files(), tls_port=0
    ) as secure:
        assert secure.tls_port is not None
        ours.register("secure", "SECURE", secure.tls_port, tls=tls)
        association = _by_tls(ours, authority, STUDY_MOVE)
        for study in ours.generated:
            *_, (status, _) = association.send_c_move(_study(study), "SECURE", STUDY_MOVE)
            assert status.Status == 0
        association.release()
    came = instances_in(path for path in target.path.rglob("*.dcm"))
    assert came == set().union(*map(ours.of, ours.generated))
    records = [path.read_text() for path in target.path.rglob("association.json")]
    assert records
    assert all("sender.example" in record for record in records)


def test_a_c_get_by_tls_brings_small_and_large_instances_byte_for_byte(
    ours: Ours, authority: Authority
) -> None:
    got: dict[str, bytes] = {}

    def keep(event: evt.Event) -> int:
        got[event.request.AffectedSOPInstanceUID] = event.request.DataSet.getvalue()
        return 0

    for study in (ours.generated[0], ours.generated[-1]):
        classes = {instance.sop_class_uid for instance in study.instances}
        association = _by_tls(
            ours,
            authority,
            STUDY_GET,
            contexts=[build_context(uid, EXPLICIT_LITTLE) for uid in classes],
            ext_neg=[build_role(uid, scp_role=True) for uid in classes],
            evt_handlers=[(evt.EVT_C_STORE, keep)],
        )
        *_, (status, _) = association.send_c_get(_study(study), STUDY_GET)
        association.release()
        assert status.Status == 0
        for instance in study.instances:
            assert instance.path.read_bytes().endswith(got[instance.sop_instance_uid])
            assert len(got[instance.sop_instance_uid]) > len(instance.path.read_bytes()) - 1024


def _by_tls(ours: Ours, authority: Authority, model: str, contexts: object = (), **more: object):
    association = AE("ASKER").associate(
        "127.0.0.1",
        ours.receiver.tls_port,
        contexts=[build_context(model), *contexts],
        ae_title="BACKUPDR",
        tls_args=(authority.caller(), "localhost"),
        **more,
    )
    assert association.is_established
    return association


def _study(study: GeneratedStudy) -> Dataset:
    wanted = Dataset()
    wanted.QueryRetrieveLevel, wanted.StudyInstanceUID = "STUDY", study.study_instance_uid
    return wanted


def _scu(tool: str, ours: Ours, study: str, *options: str) -> "subprocess.CompletedProcess[str]":
    keys = ["-k", "QueryRetrieveLevel=STUDY", "-k", f"StudyInstanceUID={study}"]
    return subprocess.run(
        [tool, "-S", "-d", "-aec", "BACKUPDR", *options, *keys, "127.0.0.1", str(ours.receiver.port)],
        env=QUICK,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=60,
    )
