"""The blocks people edit: what they accept, what they refuse in words, and what they become."""

from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
from pydantic import ValidationError

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
    from blocks import RemoteServer, StorageUnit

    for block in (RemoteServer, StorageUnit):
        for name, field in block.model_fields.items():
            assert field.title, f"{block.__name__}.{name}"
            assert field.description, f"{block.__name__}.{name}"
        assert block.get_description()


def test_prefect_finds_the_blocks_by_our_entry_point() -> None:
    module = EntryPoint(name="backupdr", value="blocks", group="prefect.collections").load()
    slugs = {module.RemoteServer.get_block_type_slug(), module.StorageUnit.get_block_type_slug()}
    assert slugs == {"remote-server", "storage-unit"}
