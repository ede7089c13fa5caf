"""What a remote server may do with us, as options of `remote add` and in the words of `remote list`."""

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from cli.__main__ import run
from vna.settings import Settings
from vna.site import RemoteServer, Site, publish_site

if TYPE_CHECKING:
    from blocks import RemoteServer as Block

ADD = ["remote", "add", "ct-2", "--aet", "CT2", "--host", "192.0.2.7", "--port", "104"]


@pytest.fixture(scope="module", autouse=True)
def prefect_home(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Prefect gets a home of its own before it is imported."""
    from deployments.environment import use_home

    use_home(tmp_path_factory.mktemp("rights-home"))


@pytest.fixture
def saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> "dict[str, Block]":
    """What was saved, in the place of Prefect's blocks; published at once."""
    monkeypatch.setenv("BACKUPDR_HOME", str(tmp_path / "home"))
    blocks: dict[str, Block] = {}

    def publish(settings: Settings) -> list[str]:
        publish_site(settings, Site(remotes={name: block.to_domain(name) for name, block in blocks.items()}))
        return []

    monkeypatch.setattr("deployments.server.embedded_server", lambda _: contextlib.nullcontext())
    monkeypatch.setattr("deployments.site.save_remote", blocks.__setitem__)
    monkeypatch.setattr("deployments.site.publish", publish)
    return blocks


def test_every_right_can_be_given_and_is_told_again(
    saved: "dict[str, Block]", capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--calling-aet", "CT2_A", "--calling-aet", "CT2_B", "--called-aet", "OLDPACS"]
    options += ["--address", "192.0.2.7", "--address", "198.51.100.0/24", "--tls-subject", "ct2.example"]
    options += ["--no-retrieve", "--transfer-syntax", "1.2.840.10008.1.2.1"]
    assert run([*ADD, *options]) == 0
    value = saved["ct-2"].to_domain("ct-2")
    assert value == RemoteServer(
        name="ct-2",
        aet="CT2",
        host="192.0.2.7",
        port=104,
        calling_aets=("CT2_A", "CT2_B"),
        called_aets=("OLDPACS",),
        addresses=("192.0.2.7/32", "198.51.100.0/24"),
        tls_subject="ct2.example",
        may_retrieve=False,
        transfer_syntaxes=("1.2.840.10008.1.2.1",),
    )
    capsys.readouterr()
    assert run(["remote", "list"]) == 0
    told = capsys.readouterr().out
    for words in (
        "also calls as CT2_A, CT2_B",
        "may call OLDPACS only",
        "may call from 192.0.2.7/32, 198.51.100.0/24 only",
        "must show a certificate of ct2.example",
        "may not query or retrieve",
    ):
        assert words in told


def test_without_options_it_may_do_everything_from_anywhere(
    saved: "dict[str, Block]", capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(ADD) == 0
    value = saved["ct-2"].to_domain("ct-2")
    assert value.may_store
    assert value.may_retrieve
    assert value.addresses == value.calling_aets == value.called_aets == value.transfer_syntaxes == ()
    assert ";" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--address", "192.0.2.300"], "an address is like 192.0.2.7, a network like 192.0.2.0/24"),
        (["--calling-aet", "SEVENTEEN_LETTERS"], "an AE title has 1 to 16 printable ASCII characters"),
        (["--called-aet", "A\\B"], "no backslash"),
        (["--transfer-syntax", "JPEG"], "a transfer syntax is given by its UID"),
    ],
)
def test_a_right_that_cannot_be_used_is_one_sentence_and_nothing_is_saved(
    saved: "dict[str, Block]", capsys: pytest.CaptureFixture[str], options: list[str], sentence: str
) -> None:
    assert run([*ADD, *options]) == 2
    (said,) = capsys.readouterr().err.splitlines()
    assert sentence in said
    assert not saved
