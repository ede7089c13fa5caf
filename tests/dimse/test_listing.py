"""A list of instances that contradicts itself is refused or doubted aloud, never taken without a word."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, cast

import pytest

from vna.dimse.listing import Listing
from vna.errors import QueryTruncated


@dataclass
class Source:
    """Series of so many instances; `counts` are what it says of them."""

    sizes: tuple[int, ...]
    counts: tuple[int | None, ...]
    cap: int | None = None
    matches_numbers: bool = False

    def ask(self, level: str, keys: Mapping[str, str]) -> Iterator[dict[str, str]]:
        if level == "SERIES":
            answers = [
                {
                    "SeriesInstanceUID": f"1.{number}",
                    "SeriesNumber": str(number),
                    "NumberOfSeriesRelatedInstances": "" if count is None else str(count),
                }
                for number, count in enumerate(self.counts, 1)
            ]
            number_keyword = "SeriesNumber"
        else:
            uid = keys["SeriesInstanceUID"]
            size = self.sizes[int(uid.removeprefix("1.")) - 1]
            answers = [
                {"SOPInstanceUID": f"{uid}.{number}", "InstanceNumber": str(number)}
                for number in range(1, size + 1)
            ]
            number_keyword = "InstanceNumber"
        wanted = keys.get(number_keyword) if self.matches_numbers else None
        yield from [one for one in answers if not wanted or one[number_keyword] == wanted][: self.cap]

    def listed(self) -> tuple[int, list[str]]:
        doubts: list[str] = []
        listing = Listing("pacs", cast(Any, self), "1", doubts.append)
        return len(listing.instances()), doubts


def test_a_count_above_the_list_is_doubt_where_nothing_else_tells_of_a_cut() -> None:
    listed, doubts = Source((200,), (200,), cap=123).listed()
    assert listed == 123
    assert doubts == ["pacs counts 200 instances in series 1.1 and lists 123"]


def test_several_series_that_end_at_one_length_below_their_counts_are_cut() -> None:
    with pytest.raises(QueryTruncated, match=r"study 1 in series 1\.1"):
        Source((200, 150, 20), (200, 150, 20), cap=123).listed()


def test_a_round_length_below_the_count_is_cut() -> None:
    with pytest.raises(QueryTruncated):
        Source((200,), (200,), cap=100).listed()


def test_a_round_length_that_nothing_confirms_is_doubt() -> None:
    listed, doubts = Source((200,), (None,), cap=100).listed()
    assert listed == 100
    assert doubts == ["pacs lists 100 of series 1.1, which may be a limit of its answers"]


@pytest.mark.parametrize(
    "source",
    [
        Source((100, 100), (100, 100)),
        Source((100,), (None,), matches_numbers=True),
        Source((123, 123), (200, 200), matches_numbers=True),
        Source((123, 40), (123, 60)),
        Source((123,), (None,)),
        Source((20,), (None,)),
    ],
    ids=["counted", "asked for the next", "stale counts", "shorter than another", "no round", "short"],
)
def test_a_whole_list_is_taken_without_doubt(source: Source) -> None:
    assert source.listed() == (sum(source.sizes), [])


def test_stale_counts_do_not_keep_a_whole_list_from_being_taken() -> None:
    listed, doubts = Source((123, 77), (124, 78)).listed()
    assert listed == 200
    assert doubts == ["pacs counts 124 instances in series 1.1 and lists 123"]
