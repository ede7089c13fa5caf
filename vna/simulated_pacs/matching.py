"""Whether an attribute matches a query key (PS3.4 C.2.2.2), as a PACS does it that follows the standard.

Dates and times are matched each for itself (field note 2), a time to the fraction of a second: 115959.5 lies
after 115959.
"""

import re
from collections.abc import Callable
from functools import lru_cache

_EMPTY = '""'  # empty value matching, PS3.4 C.2.2.2.4
_WILDCARD_VRS = frozenset({"AE", "CS", "LO", "LT", "PN", "SH", "ST", "UC", "UR", "UT"})
_NUMBER_VRS = frozenset({"DS", "IS", "US", "SS", "UL", "SL"})

Matcher = Callable[[str], bool]


def matcher(
    vr: str, key: str, *, knows_empty: bool = True, case_sensitive_names: bool = False
) -> Matcher | None:
    """What tells whether an attribute's text matches; None where everything does (universal matching)."""
    if not key or (vr in _WILDCARD_VRS and not key.strip("*")):
        return None
    if key == _EMPTY and knows_empty:
        return lambda text: not text
    if vr == "UI":
        wanted = frozenset(key.split("\\"))
        return lambda text: not wanted.isdisjoint(text.split("\\"))
    if vr in {"DA", "TM", "DT"}:
        return _range_matcher(vr, key)
    if vr == "PN":
        return _name_matcher(key, case_sensitive=case_sensitive_names)
    singles = [_single(vr, part) for part in key.split("\\")]
    return lambda text: any(single(part.strip()) for single in singles for part in text.split("\\"))


def _single(vr: str, key: str) -> Matcher:
    if vr in _WILDCARD_VRS and ("*" in key or "?" in key):
        return _wildcard(key)
    if vr in _NUMBER_VRS:
        return lambda text: text == key or (bool(text) and _number(text) == _number(key))
    return lambda text: text == key


def _number(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text


@lru_cache(maxsize=256)
def _pattern(key: str) -> re.Pattern[str]:
    return re.compile(
        "".join(".*" if c == "*" else "." if c == "?" else re.escape(c) for c in key), re.DOTALL
    )


def _wildcard(key: str) -> Matcher:
    pattern = _pattern(key)
    return lambda text: pattern.fullmatch(text) is not None


def _name_matcher(key: str, *, case_sensitive: bool) -> Matcher:
    """Any component group, or the whole name, may match; empty trailing components do not count."""

    def plain(text: str) -> str:
        return text.rstrip("^= ") if case_sensitive else text.rstrip("^= ").casefold()

    single = _single("PN", plain(key))
    return lambda text: single(plain(text)) or any(single(plain(group)) for group in text.split("="))


def _range_matcher(vr: str, key: str) -> Matcher:
    first, dash, last = key.partition("-")
    low, high = _moment(vr, first), _moment(vr, last if dash else first)

    def matches(text: str) -> bool:
        moment = _moment(vr, text)
        return bool(moment) and (not low or low <= moment) and (not high or moment <= high)

    return matches


def _moment(vr: str, text: str) -> str:
    """A date or time in a form that sorts; the old forms with dots and colons are understood too."""
    text = text.strip()
    if not text:
        return ""
    if vr == "DA":
        return text.replace(".", "")
    digits, _, fraction = text.replace(":", "").partition(".") if vr == "TM" else text.partition(".")
    return digits.ljust(6 if vr == "TM" else 14, "0") + fraction.ljust(6, "0")
