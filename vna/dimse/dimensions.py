"""Along which keys a query can be cut into smaller ones, so that the parts together miss nothing.

Dates and times are cut by range, identifiers by their first characters. Date and time are matched as separate
keys (field note 2), and a study may have neither (field note 4): no range finds it.
"""

import datetime
import string
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

FIRST_DAY = datetime.date.min.toordinal()
LAST_DAY = datetime.date.max.toordinal()
DAY_SECONDS = 86400
_UID = "StudyInstanceUID"
EMPTY = '""'
"""Empty value matching: two quotation marks (PS3.4 C.2.2.2)."""


class Part(Protocol):
    """What a query asks of one key: `key` is its value, empty for no condition."""

    @property
    def key(self) -> str: ...

    @property
    def is_any(self) -> bool:
        """Whether it is no condition at all."""
        ...

    def split(self, values: Sequence[str]) -> "list[Part]":
        """Smaller parts that together cover this one but for empty values; none if it cannot be cut. `values` are
        those answered, so that the cut goes through their middle.
        """
        ...

    def holds(self, value: str) -> bool:
        """False for a value that this part surely does not ask for, such as none at all."""
        ...

    @property
    def words(self) -> str:
        """For the operator, without patient data."""
        ...


@dataclass(frozen=True, slots=True)
class Days:
    """Study dates from `first` to `last`, both included, as ordinals of the calendar."""

    first: int = FIRST_DAY
    last: int = LAST_DAY

    @property
    def is_any(self) -> bool:
        return self.first == FIRST_DAY and self.last == LAST_DAY

    @property
    def key(self) -> str:
        return "" if self.is_any else _range(*self._ends())

    def _ends(self) -> tuple[str, str]:
        return (
            "" if self.first == FIRST_DAY else _date_text(self.first),
            "" if self.last == LAST_DAY else _date_text(self.last),
        )

    def split(self, values: Sequence[str]) -> list[Part]:
        if self.first >= self.last:
            return []
        days = sorted(d for d in map(_day, values) if d is not None and self.first <= d <= self.last)
        if not days:
            middle = (self.first + self.last) // 2
            return [Days(self.first, middle), Days(middle + 1, self.last)]
        if days[0] == days[-1]:
            day = days[0]
            parts = [Days(self.first, day - 1), Days(day, day), Days(day + 1, self.last)]
            return [part for part in parts if part.first <= part.last]
        middle = days[(len(days) - 1) // 2]
        if middle == days[-1]:
            middle = next(day for day in reversed(days) if day < middle)
        return [Days(self.first, middle), Days(middle + 1, self.last)]

    def holds(self, value: str) -> bool:
        day = _day(value)
        return bool(value) and (day is None or self.first <= day <= self.last)

    @property
    def words(self) -> str:
        return _range_words("StudyDate", self._ends())


@dataclass(frozen=True, slots=True)
class Seconds:
    """Study times from `first` to `last` in seconds of the day, both included.

    Two neighbours share their border, so that a time with a fraction lies in one of them whatever a server
    makes of fractions in a query (field note 3).
    """

    first: int = 0
    last: int = DAY_SECONDS

    @property
    def is_any(self) -> bool:
        return self.first == 0 and self.last == DAY_SECONDS

    @property
    def key(self) -> str:
        return "" if self.is_any else _range(*self._ends())

    def _ends(self) -> tuple[str, str]:
        return (
            "" if self.first == 0 else _time_text(self.first),
            "" if self.last == DAY_SECONDS else _time_text(self.last),
        )

    def split(self, values: Sequence[str]) -> list[Part]:
        if self.last - self.first <= 1:
            return []
        times = sorted(s for s in map(_second, values) if s is not None and self.first <= s <= self.last)
        middle = times[(len(times) - 1) // 2] if times else (self.first + self.last) // 2
        middle = min(max(middle, self.first + 1), self.last - 1)
        return [Seconds(self.first, middle), Seconds(middle, self.last)]

    def holds(self, value: str) -> bool:
        second = _second(value)
        return bool(value) and (second is None or self.first <= second <= self.last)

    @property
    def words(self) -> str:
        return _range_words("StudyTime", self._ends())


@dataclass(frozen=True, slots=True)
class Beginning:
    """Values that begin with `text`, or are exactly it (`whole`); wildcard matching of PS3.4 C.2.2.2.4."""

    keyword: str
    alphabet: str
    text: str = ""
    whole: bool = False

    @property
    def is_any(self) -> bool:
        return not self.text

    @property
    def key(self) -> str:
        return "" if self.is_any else self.text if self.whole else self.text + "*"

    def split(self, values: Sequence[str]) -> list[Part]:
        if self.whole or len(self.text) >= 64:
            return []
        parts: list[Part] = [replace(self, text=self.text + letter) for letter in self.alphabet]
        return parts if self.is_any else [replace(self, whole=True), *parts]

    def holds(self, value: str) -> bool:
        wanted = self.text.casefold()
        return any(one.casefold().startswith(wanted) for one in value.split("\\"))

    @property
    def words(self) -> str:
        return "" if self.is_any else f"one beginning of {self.keyword}"


@dataclass(frozen=True, slots=True)
class Nothing:
    """Studies where the key is empty."""

    keyword: str

    @property
    def key(self) -> str:
        return EMPTY

    @property
    def is_any(self) -> bool:
        return False

    def split(self, values: Sequence[str]) -> list[Part]:
        return []

    def holds(self, value: str) -> bool:
        return not value.strip()

    @property
    def words(self) -> str:
        return f"no {self.keyword}"


@dataclass(frozen=True, slots=True)
class Given:
    """A condition of the caller that cannot be cut."""

    keyword: str
    key: str

    @property
    def is_any(self) -> bool:
        return False

    def split(self, values: Sequence[str]) -> list[Part]:
        return []

    def holds(self, value: str) -> bool:
        return True

    @property
    def words(self) -> str:
        return f"this {self.keyword}"


@dataclass(frozen=True, slots=True)
class Dimension:
    """One key to cut along. `may_be_empty`: its parts do not reach studies without a value. `reaches_all`: they
    reach every other study.
    """

    keyword: str
    everything: Part
    may_be_empty: bool
    reaches_all: bool = True

    @property
    def is_range(self) -> bool:
        return not isinstance(self.everything, Beginning)


# Some sources know ModalitiesInStudy only as one exact value, or not at all (field note 7). Every source matches
# the wildcards of a Patient ID, but an identifier may begin with any letter of any script. Wildcards in a UID are
# beyond the standard; where a source matches them all the same, they reach every study there is.
DIMENSIONS = (
    Dimension("StudyDate", Days(), may_be_empty=True),
    Dimension("StudyTime", Seconds(), may_be_empty=True),
    Dimension(
        "ModalitiesInStudy",
        Beginning("ModalitiesInStudy", string.ascii_uppercase + string.digits + "_"),
        may_be_empty=True,
    ),
    Dimension(
        "PatientID",
        Beginning("PatientID", "".join(c for c in map(chr, range(0x21, 0x7F)) if c not in '*?\\"')),
        may_be_empty=True,
        reaches_all=False,
    ),
    Dimension(_UID, Beginning(_UID, string.digits + "."), may_be_empty=False),
)


def part_of(dimension: Dimension, value: str) -> Part:
    """The part a caller's key stands for: a date or time range can be cut, other values cannot."""
    if not value:
        return dimension.everything
    first, dash, last = (text.strip() for text in value.partition("-"))
    if dimension.keyword == "StudyDate":
        begin = _day(first) if first else FIRST_DAY
        end = _day(last if dash else first) if last or not dash else LAST_DAY
        if begin is not None and end is not None:
            return Days(begin, end)
    if dimension.keyword == "StudyTime" and dash:
        begin = _second(first) if first else 0
        end = _second(last) if last else DAY_SECONDS
        if begin is not None and end is not None and begin <= end:
            within = {2: 3600, 4: 60}.get(len(last), 1)  # to 1300 means to the end of that minute
            return Seconds(begin, min(end + within, DAY_SECONDS))
    return Given(dimension.keyword, value)


def _range(first: str, last: str) -> str:
    return first if first == last else f"{first}-{last}"


def _range_words(keyword: str, ends: tuple[str, str]) -> str:
    first, last = ends
    if not first and not last:
        return ""
    if first == last:
        return f"{keyword} {first}"
    return " ".join([keyword, *(["from", first] if first else []), *(["to", last] if last else [])])


def _date_text(day: int) -> str:
    return datetime.date.fromordinal(day).strftime("%Y%m%d").rjust(8, "0")


def _day(text: str) -> int | None:
    """The day of a date as answered, also in the form of ACR-NEMA (2024.01.31); None if it is none."""
    digits = text.strip().replace(".", "").replace("-", "")
    if len(digits) != 8 or not digits.isdecimal():
        return None
    try:
        return datetime.date(int(digits[:4]), int(digits[4:6]), int(digits[6:])).toordinal()
    except ValueError:
        return None


def _time_text(second: int) -> str:
    return f"{second // 3600:02d}{second // 60 % 60:02d}{second % 60:02d}"


def _second(text: str) -> int | None:
    """The second of a time as answered, of any precision; None if it is none."""
    digits = text.strip().replace(":", "").partition(".")[0]
    if len(digits) not in {2, 4, 6} or not digits.isdecimal():
        return None
    hour, minute, second = (int(digits.ljust(6, "0")[n : n + 2]) for n in (0, 2, 4))
    total = hour * 3600 + minute * 60 + second
    return min(total, DAY_SECONDS - 1) if hour < 24 and minute < 60 and second <= 60 else None
