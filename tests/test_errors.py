"""Sentences an operator reads: nothing of a patient, and one line."""

import pytest

from vna.errors import InstanceRefused, peers_words


@pytest.mark.parametrize(
    ("comment", "told"),
    [
        ("Out of resources: disk full", "Out of resources: disk full"),
        ("patient DOE^JOHN unknown", "patient … unknown"),
        ("no such patient 4711234, born 19700101", "no such patient … born …"),
        ("first line\nFAKE second line\r\x1b[31m", "first line FAKE second line [31m"),
        ("x" * 500, "x" * 64),
        ("", ""),
    ],
)
def test_a_peers_comment_is_one_line_without_what_looks_like_a_patient(comment: str, told: str) -> None:
    assert peers_words(comment) == told


def test_a_refused_instance_is_named_by_its_uid_and_the_status() -> None:
    error = InstanceRefused("ws", "1.2.3", 0xA700, peers_words("disk full"))
    assert str(error) == "ws: refused instance 1.2.3 with status 0xA700: disk full."
