"""A list of studies that is complete, from a source that may cut every answer in silence (field notes 1 to 5).

Many sources end a query after so many answers and call it a success. What can be relied on: a source that once
sent M answers does not cut below M. So an answer with fewer than the most ever seen is complete, and one that
reaches it is asked again in parts, until every part has fewer or nothing is left to cut. The first, broad query
proves nothing by itself; its parts do. Whatever was answered to the whole must come again in a part, else the
source does not match the way the parts were cut, and another way is taken.

What cannot be proven is never returned as a list: `QueryTruncated` names the interval. Only answers of fewer than
ten studies are taken on the word of one round of parts: no source is known that cuts so low.

While no sign of a cut was seen, parts that bring all of the whole again and nothing new are believed, though they
may not reach every study: those without a value where the source does not know empty value matching, and patients
whose identifier begins with no ASCII letter. So are parts that leave fewer than ten of the whole unnamed, if every
way of cutting was tried and the whole is no round count. Once a cut was seen only parts that together reach every
study count, for what was believed before as well.
"""

import datetime
from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from vna.dimse.dimensions import DIMENSIONS, EMPTY, Beginning, Days, Dimension, Nothing, Part, part_of
from vna.errors import QueryFailed, QueryTruncated
from vna.identity import FoundStudy

SMALL = 10
UIDS_PER_QUERY = 50
_TIME = next(index for index, dimension in enumerate(DIMENSIONS) if dimension.keyword == "StudyTime")
_CALIBRATING = ("AccessionNumber", "StudyID", "StudyDescription", "IssuerOfPatientID", "PatientName")
"""Text keys that are often empty."""
_SINCE_1900 = Days(datetime.date(1900, 1, 1).toordinal())
_NOBODYS_VALUE = "BACKUPDR NOBODY"


class AnswersCut(Exception):
    """Raised at the end of the answers by a source that says itself that there are more."""


Ask = Callable[[Mapping[str, str]], Iterable[FoundStudy]]


@dataclass(frozen=True, slots=True)
class _Domain:
    """The studies one query asks for: a part of each dimension."""

    parts: tuple[Part, ...]

    def narrowed(self, index: int, part: Part) -> "_Domain":
        return replace(self, parts=(*self.parts[:index], part, *self.parts[index + 1 :]))

    @property
    def words(self) -> str:
        told = [part.words for part in self.parts if part.words]
        return "studies with " + ", ".join(told) if told else "the list of all studies"


@dataclass(frozen=True, slots=True)
class _Seen:
    """What is remembered of an answer while its query is open."""

    study_instance_uid: str
    values: tuple[str, ...]


class _KeyIgnored(Exception):
    """The source answered studies that the narrowed key excludes."""


class Splitter:
    """One list of studies from one source; `ask` sends one query with the given keys."""

    def __init__(
        self,
        remote: str,
        ask: Ask,
        keys: Mapping[str, str],
        on_progress: Callable[[int], None] = lambda _: None,
    ) -> None:
        self._remote = remote
        self._ask = ask
        self._keys = dict(keys)
        self._on_progress = on_progress
        self._root = _Domain(tuple(part_of(d, self._keys.get(d.keyword, "")) for d in DIMENSIONS))
        self._found: set[str] = set()
        self._not_again: list[set[str]] = []
        self._most = 0
        self._whole = 0
        self._is_cut = False
        self._refuses_whole = False
        self._on_trust = False
        self._ignored: set[str] = set()
        self._fertile: dict[tuple[int, str], bool] = {}
        self._empty_matching: bool | None = None
        self._sample_empty: dict[str, str] = {}
        self._sample_filled: dict[str, str] = {}

    def studies(self) -> Iterator[FoundStudy]:
        """Every study once, as answered; raises `QueryTruncated` if some may be missing."""
        uids = [uid for uid in self._keys.get("StudyInstanceUID", "").split("\\") if uid]
        if uids and all(set(uid) <= set("0123456789.") for uid in uids):
            yield from self._by_uid(list(dict.fromkeys(uids)))
        else:
            yield from self._all()
        self._on_progress(len(self._found))

    def _all(self) -> Iterator[FoundStudy]:
        """The whole; a second time where the list grew meanwhile, or a cut shows after something was believed."""
        for is_last in (False, True):
            self._on_trust = False
            try:
                yield from self._resolve(self._root, None)
                if not (self._on_trust and self._must_prove):
                    return
                may_be_proven = True
                truncated = QueryTruncated(self._remote, self._root.words, self._most)
            except QueryTruncated as error:
                may_be_proven = False
                truncated = error
            grew = yield from self._has_grown()
            if is_last or not (may_be_proven or grew):
                raise truncated

    @property
    def _must_prove(self) -> bool:
        """Whether the whole is known not to hold everything."""
        return self._is_cut or self._refuses_whole

    def _has_grown(self) -> Generator[FoundStudy, None, bool]:
        """Whether what looked like a cut is a new study at the source: the whole is more than it was, uncut."""
        if not self._is_cut:
            return False
        seen, says_cut = yield from self._take(self._root, is_part=False)
        if says_cut or len(seen) <= self._whole:
            return False
        self._is_cut = False
        self._fertile.clear()
        self._ignored.clear()
        return True

    # -- a list of UIDs

    def _by_uid(self, uids: Sequence[str]) -> Iterator[FoundStudy]:
        """A UID names one study at most: what was asked and did not come is asked again in smaller lists."""
        for start in range(0, len(uids), UIDS_PER_QUERY):
            yield from self._chunk(uids[start : start + UIDS_PER_QUERY])

    def _chunk(self, uids: Sequence[str]) -> Iterator[FoundStudy]:
        answers = 0
        try:
            for study in self._ask({**self._keys, "StudyInstanceUID": "\\".join(uids)}):
                answers += 1
                if study.study_instance_uid in uids and self._is_new(study):
                    yield study
        except AnswersCut:
            pass
        except QueryFailed:  # some sources take one UID a request only
            if len(uids) == 1:
                raise
        missing = [uid for uid in uids if uid not in self._found]
        if not missing:
            return
        if len(uids) == 1:
            if answers:
                raise QueryTruncated(self._remote, f"the query for study {uids[0]}", answers)
            return
        middle = (len(missing) + 1) // 2
        for part in (missing[:middle], missing[middle:]):
            if part:
                yield from self._chunk(part)

    # -- cutting

    def _resolve(self, domain: _Domain, narrowed: int | None) -> Generator[FoundStudy, None, list[_Seen]]:
        """All studies of the domain; returns what the one query for it answered."""
        seen, says_cut = yield from self._take(domain, is_part=narrowed is not None)
        if narrowed is None:
            self._whole = len(seen)
            if not seen and not says_cut and not any(self._keys.values()):
                # some sources answer nothing to a query without any condition
                seen, says_cut = yield from self._take(domain.narrowed(0, _SINCE_1900), is_part=False)
                self._refuses_whole = bool(seen)
        complete = not says_cut and (not seen or len(seen) < self._most)
        self._most = max(self._most, len(seen))
        if complete or (narrowed is not None and len(seen) < SMALL and not self._is_cut):
            return seen
        if narrowed is not None and self._is_ignored(
            domain.parts[narrowed], [s.values[narrowed] for s in seen]
        ):
            raise _KeyIgnored
        yield from self._split(domain, seen)
        return seen

    def _take(
        self, domain: _Domain, *, is_part: bool
    ) -> Generator[FoundStudy, None, tuple[list[_Seen], bool]]:
        """The answers to one query, and whether the source says that there are more."""
        seen: list[_Seen] = []
        try:
            for study in self._ask(self._query(domain)):
                seen.append(self._remember(study))
                if self._is_new(study):
                    # what the broad query did not bring was cut from it, or is new at the source
                    self._is_cut = self._is_cut or (is_part and not self._refuses_whole)
                    yield study
        except AnswersCut:
            self._is_cut = True
            return seen, True
        return seen, False

    def _is_ignored(self, part: Part, values: Sequence[str]) -> bool:
        """Whether the answers to a part show that the source does not match its key: one is outside of it, or all
        of the whole came again under one beginning and none tells its value (dcmqrscp and ModalitiesInStudy).
        """
        if not all(part.holds(value) for value in values):
            return True
        return isinstance(part, Beginning) and not any(values) and not self._not_again[-1]

    def _query(self, domain: _Domain) -> dict[str, str]:
        changed = {
            dimension.keyword: part.key
            for dimension, part, given in zip(DIMENSIONS, domain.parts, self._root.parts, strict=True)
            if part is not given
        }
        return {**self._keys, **changed}

    def _split(self, domain: _Domain, seen: Sequence[_Seen]) -> Iterator[FoundStudy]:
        empty_unproven = False
        unnamed = {one.study_instance_uid for one in seen}
        for index, dimension in enumerate(DIMENSIONS):
            if dimension.keyword in self._ignored or self._is_vain(domain, dimension, empty_unproven):
                continue
            parts = domain.parts[index].split([one.values[index] for one in seen])
            if not parts:
                continue
            missing = {one.study_instance_uid for one in seen}
            self._not_again.append(missing)
            try:
                for smaller in parts:
                    if self._must_prove and not dimension.reaches_all:
                        break  # whatever comes of it is no proof any more
                    if (yield from self._is_barren(domain, index, smaller)):
                        continue
                    yield from self._resolve(domain.narrowed(index, smaller), index)
                reached = yield from self._reaches_rest(domain, index, seen, missing)
            except _KeyIgnored:
                self._ignored.add(dimension.keyword)
                continue
            except QueryFailed as error:
                if dimension.keyword != "StudyInstanceUID" or error.transient:
                    raise
                self._ignored.add(dimension.keyword)
                continue
            finally:
                self._not_again.remove(missing)
            unnamed &= missing
            if reached and not missing:
                return
            empty_unproven = empty_unproven or (dimension.is_range and not reached)
            if len(missing) == len(seen):
                self._ignored.add(dimension.keyword)
        if len(unnamed) < SMALL <= len(seen) - len(unnamed) and not self._looks_cut(len(seen)):
            self._on_trust = True
            return
        words = f"{domain.words} (of those without a date or time)" if empty_unproven else domain.words
        raise QueryTruncated(self._remote, words, self._most)

    def _looks_cut(self, answers: int) -> bool:
        """Whether a part brought a study that its whole had not, or so many answers may be a source's limit."""
        return self._must_prove or looks_like_a_cap(answers)

    def _is_vain(self, domain: _Domain, dimension: Dimension, empty_unproven: bool) -> bool:
        """Whether another way of cutting proves no less than this one."""
        if dimension.is_range:
            # once beginnings are asked for, dates would only be walked through again for each of them
            return empty_unproven or any(isinstance(p, Beginning) and not p.is_any for p in domain.parts)
        reaches_empty = not dimension.may_be_empty or self._empty_matching is not False
        return self._must_prove and not (dimension.reaches_all and reaches_empty)

    def _reaches_rest(
        self, domain: _Domain, index: int, seen: Sequence[_Seen], missing: Collection[str]
    ) -> Generator[FoundStudy, None, bool]:
        """Ask for what the parts of a key do not reach; returns whether all of it is known now."""
        dimension = DIMENSIONS[index]
        if not domain.parts[index].is_any and dimension.reaches_all:
            return True
        if dimension.is_range:
            return (yield from self._empty(domain, index, seen, missing))
        if not self._must_prove:
            self._on_trust = self._on_trust or dimension.may_be_empty
            return True
        if dimension.may_be_empty and dimension.reaches_all:
            return (yield from self._finds_empty(domain, index, seen)) is True
        return dimension.reaches_all

    def _is_barren(self, domain: _Domain, index: int, part: Part) -> Generator[FoundStudy, None, bool]:
        """Whether no study at all begins so, whatever its date: most beginnings are asked for once, not once a day."""
        if not isinstance(part, Beginning) or self._refuses_whole:
            return False  # who refuses the whole may refuse a question without a date, too
        asked = (index, part.key)
        if asked not in self._fertile:
            if domain.narrowed(index, part) == self._root.narrowed(index, part):
                return False  # the question itself, about to be asked
            answers = 0
            try:
                for study in self._ask(self._query(self._root.narrowed(index, part))):
                    answers += 1
                    if self._is_new(study):
                        self._is_cut = True
                        yield study
            except AnswersCut:
                self._is_cut = True
            self._most = max(self._most, answers)
            self._fertile[asked] = answers > 0
        return not self._fertile[asked]

    # -- studies without a date or time

    def _empty(
        self, domain: _Domain, index: int, seen: Sequence[_Seen], missing: Collection[str]
    ) -> Generator[FoundStudy, None, bool]:
        """Ask for studies where the key is empty; returns whether all of them are known now.

        Sources that do not know empty value matching answer nothing or anything. They are believed only where no
        sign of a cut was seen: no new study in any part, none without a value, and a count that is no round one, or
        else no new study in another way of cutting either.
        """
        if self._empty_matching is not False:
            self._empty_matching = yield from self._finds_empty(domain, index, seen)
        if self._empty_matching:
            return True
        if self._must_prove or missing:
            return False
        self._on_trust = True
        if not looks_like_a_cap(len(seen)):
            return True
        times = domain.parts[_TIME].split([one.values[_TIME] for one in seen])
        if index == _TIME or not times:
            return False
        for part in times:
            yield from self._resolve(domain.narrowed(_TIME, part), _TIME)
        return not self._must_prove

    def _finds_empty(
        self, domain: _Domain, index: int, seen: Sequence[_Seen]
    ) -> Generator[FoundStudy, None, bool | None]:
        """Ask for studies where the key is empty; returns whether the source matches such, None if unknown."""
        try:
            answers = yield from self._resolve(
                domain.narrowed(index, Nothing(DIMENSIONS[index].keyword)), index
            )
        except (_KeyIgnored, QueryFailed):
            return False
        if answers:
            return all(not one.values[index] for one in answers)
        if self._empty_matching is None and (len(seen) >= SMALL or self._must_prove):
            return self._knows_empty_matching(index, seen)
        return self._empty_matching

    def _knows_empty_matching(self, index: int, seen: Sequence[_Seen]) -> bool | None:
        """Tried with studies known to have an empty key, and some known to have a value; None without any to try."""
        if any(not one.values[index] for one in seen):
            return False  # it is there and was not answered
        try:
            for keyword, uid in self._sample_empty.items():
                if self._answers_one(uid, keyword, _NOBODYS_VALUE):
                    continue  # the source does not match this key at all
                filled = {
                    key: self._sample_filled[key]
                    for key in (keyword, "StudyDate")
                    if key in self._sample_filled and key not in self._ignored
                }
                if not filled:
                    continue
                return self._answers_one(uid, keyword, EMPTY) and not any(
                    self._answers_one(other, key, EMPTY) for key, other in filled.items()
                )
        except QueryFailed:
            return False
        return None

    def _answers_one(self, uid: str, keyword: str, value: str) -> bool:
        asked = self._ask({"StudyInstanceUID": uid, keyword: value})
        answered = {study.study_instance_uid for study in asked}  # to its end: the answers are a stream
        return uid in answered

    # -- memory

    def _is_new(self, study: FoundStudy) -> bool:
        if study.study_instance_uid in self._found:
            return False
        self._found.add(study.study_instance_uid)
        if len(self._found) % 100 == 0:
            self._on_progress(len(self._found))
        return True

    def _remember(self, study: FoundStudy) -> _Seen:
        uid = study.study_instance_uid
        for expected in self._not_again:
            expected.discard(uid)
        for keyword in ("StudyDate", *_CALIBRATING):
            text = study.attributes.get(keyword)
            if text:
                self._sample_filled.setdefault(keyword, uid)
            elif text == "" and keyword != "StudyDate":
                self._sample_empty.setdefault(keyword, uid)
        return _Seen(uid, tuple(study.get(d.keyword).strip() for d in DIMENSIONS))


def looks_like_a_cap(answers: int) -> bool:
    """Round by ten up to a hundred, by fifty above, or a power of two."""
    return answers >= SMALL and (
        answers % 50 == 0 or (answers <= 100 and answers % 10 == 0) or answers & (answers - 1) == 0
    )
