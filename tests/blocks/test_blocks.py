"""The blocks people edit: what they accept, what they refuse in words, and what they become."""

from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
from pydantic import ValidationError

from vna import site
from vna.settings import validation_sentence
from vna.site import RetrieveMethod

MINIMAL = {"aet": "MAINPACS", "host": "pacs.example", "port": 104}


def remote(**fields: object):
    from blocks import RemoteServer

    return RemoteServer.model_validate({**MINIMAL, **fields})


def test_a_remote_server_becomes_the_value_the_library_works_with() -> None:
    value = remote(retrieve="get", associations=4, pause_seconds=0.5, recheck_share=5).to_domain("main-pacs")
    assert (value.name, value.aet, value.host, value.port) == ("main-pacs", "MAINPACS", "pacs.example", 104)
    assert value.retrieve is RetrieveMethod.get
    assert (value.associations, value.pause_seconds, value.recheck_share) == (4, 0.5, 5.0)
    assert value.tls is None


def test_tls_files_become_paths_and_empty_ones_stay_unset() -> None:
    value = remote(tls=True, ca_file="/certs/ca.pem").to_domain("main-pacs")
    assert value.tls is not None
    assert value.tls.ca_file == Path("/certs/ca.pem")
    assert value.tls.cert_file is None
    assert value.tls.check_host


def test_who_may_call_how_becomes_the_value_the_library_works_with() -> None:
    value = remote(
        calling_aets=["MAINPACS_SEND "],
        called_aets=["OLDPACS"],
        addresses=["192.0.2.7", "192.0.2.77/24"],
        tls_subject=" pacs.example ",
        may_store=False,
        may_retrieve=False,
        transfer_syntaxes=["1.2.840.10008.1.2.1"],
    ).to_domain("main-pacs")
    assert value.calling_aets == ("MAINPACS_SEND",)
    assert value.called_aets == ("OLDPACS",)
    assert value.addresses == ("192.0.2.7/32", "192.0.2.0/24")
    assert value.tls_subject == "pacs.example"
    assert (value.may_store, value.may_retrieve) == (False, False)
    assert value.transfer_syntaxes == ("1.2.840.10008.1.2.1",)


def test_the_block_of_our_server_has_the_fields_and_defaults_of_the_value_it_becomes() -> None:
    from blocks import DicomServer

    assert set(DicomServer.model_fields) == set(site.DicomServer.model_fields)
    assert DicomServer().to_domain() == site.DicomServer()
    changed = {
        "other_aets": ["OLDPACS"],
        "unknown_callers": "store",
        "transfer_syntaxes": ["1.2.840.10008.1.2"],
        "latency_seconds": 5,
        "commitment_wait_seconds": 60,
        "max_associations": 10,
        "associations_per_address": 3,
        "max_pdu": 16384,
        "network_timeout": 30,
        "log_level": "debug",
    }
    assert set(changed) == set(site.DicomServer.model_fields)
    value = DicomServer.model_validate(changed).to_domain()
    assert value == site.DicomServer.model_validate(changed)


def test_every_field_of_a_remote_server_can_be_set_in_its_block() -> None:
    from blocks import RemoteServer

    of_the_name, of_the_block = {"name", "tls"}, {"tls", "ca_file", "cert_file", "key_file", "check_host"}
    assert set(site.RemoteServer.model_fields) - of_the_name == set(RemoteServer.model_fields) - of_the_block


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"aet": "SEVENTEEN_LETTERS"}, "at most 16 characters"),
        ({"aet": "A\\B"}, "no backslash"),
        ({"port": 0}, "a port is a number from 1 to 65535"),
        ({"host": "http://pacs"}, "without blanks, slashes or a port"),
        ({"retrieve": "push"}, "'move' or 'get'"),
        ({"ca_file": "/certs/ca.pem"}, "TLS is off"),
        ({"tls": True, "cert_file": "/certs/me.pem"}, "together or not at all"),
        ({"calling_aets": ["GOOD", "SEVENTEEN_LETTERS"]}, "1 to 16 printable ASCII characters"),
        ({"called_aets": [""]}, "1 to 16 printable ASCII characters"),
        ({"addresses": ["192.0.2.300"]}, "an address is like 192.0.2.7, a network like 192.0.2.0/24"),
        ({"transfer_syntaxes": ["jpeg"]}, "a transfer syntax is given by its UID"),
    ],
)
def test_what_cannot_be_right_is_refused_in_words(fields: dict[str, object], sentence: str) -> None:
    with pytest.raises(ValidationError) as refused:
        remote(**fields)
    assert sentence in validation_sentence(refused.value)


def test_a_storage_unit_wants_a_whole_path_of_linux_or_windows() -> None:
    from blocks import StorageUnit

    assert StorageUnit(path=" /mnt/nas1 ").to_domain("nas1").path == Path("/mnt/nas1")
    assert StorageUnit(path="D:\\backup").to_domain("disk").name == "disk"
    with pytest.raises(ValidationError, match="whole path"):
        StorageUnit(path="backup")


def test_every_field_that_people_see_has_a_title_and_a_description() -> None:
    from blocks import DicomServer, RemoteServer, StorageUnit

    for block in (DicomServer, RemoteServer, StorageUnit):
        for name, field in block.model_fields.items():
            assert field.title, f"{block.__name__}.{name}"
            assert field.description, f"{block.__name__}.{name}"
        assert block.get_description()


def test_prefect_finds_the_blocks_by_our_entry_point() -> None:
    module = EntryPoint(name="backupdr", value="blocks", group="prefect.collections").load()
    slugs = {getattr(module, name).get_block_type_slug() for name in module.__all__}
    assert slugs == {"remote-server", "storage-unit", "dicom-server"}
