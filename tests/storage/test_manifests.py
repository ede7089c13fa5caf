import json

import pytest

from vna.storage import Superseded, decode_manifest, encode_manifest

EVENTS = [
    Superseded("2024-01-31T00:00:00.000000Z", f"aa/1/2/{n}.dcm", "0" * 32, "b", "missing", 1, 2, 0, "")
    for n in range(3)
]


def test_each_line_is_json_that_any_tool_can_read() -> None:
    lines = encode_manifest(EVENTS).decode("ascii").splitlines()
    assert [json.loads(line)["event"] for line in lines] == ["batch"] + ["superseded"] * 3


def test_a_damaged_line_is_named_and_the_others_count() -> None:
    lines = encode_manifest(EVENTS).splitlines(keepends=True)
    lines[2] = lines[2].replace(b"aa/1", b"aa/9")
    manifest = decode_manifest(b"".join(lines))
    assert manifest.events == (EVENTS[0], EVENTS[2])
    assert manifest.damage == ((3, "its checksum does not fit"),)


@pytest.mark.parametrize("kept", [0, 1, 2, 3])
def test_a_manifest_that_was_cut_at_a_line_end_is_seen(kept: int) -> None:
    lines = encode_manifest(EVENTS).splitlines(keepends=True)
    manifest = decode_manifest(b"".join(lines[:kept]))
    assert manifest.damage
    assert len(manifest.events) == max(kept - 1, 0)


@pytest.mark.parametrize("path", ["../x", "/etc/passwd", "aa/../../x", "", "c:x", "a\\b"])
def test_a_line_that_leads_outside_the_unit_does_not_count(path: str) -> None:
    event = Superseded("", path, "", "b", "missing", 1, 2, 0, "")
    manifest = decode_manifest(encode_manifest([event]))
    assert not manifest.events
    assert manifest.damage


def test_rubbish_is_damage_and_no_crash() -> None:
    for rubbish in (b"", b"\0" * 100, b"\xff\xfe\n{}\n", b'{"event":1}'):
        assert decode_manifest(rubbish).damage
