"""A list of studies that is complete, from a source that may cut every answer in silence (field notes 1 to 5).

Many sources end a query after so many answers and call it a success. What can be relied on: a source that once
sent M answers does not cut below M. So an answer with fewer than the most ever seen is complete, and one that
reaches it is asked again in parts, until every part has fewer or nothing is left to cut. The first, broad query
proves nothing by itself; its parts do. Whatever was answered to the whole must come again in a part, else the
source does not match the way the parts were cut, and another way is taken.

What cannot be proven is never returned as a list: `QueryTruncated` names the interval. Only answers of fewer than
ten studies are taken on the word of one round of parts: no source is known that cuts so low. So are fewer than ten
that no part can name (without date, patient or modality), if every way of cutting was tried, none brought a study
that the whole had not, and the whole is no round count.
"""

from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from vna.dimse.dimensions import DIMENSIONS, EMPTY, Beginning, Nothing, Part, part_of
from vna.errors import QueryFailed, QueryTruncated
from vna.identity import FoundStudy

SMALL = 10
UIDS_PER_QUERY = 50
_TIME = next(index for index, dimension in enumerate(DIMENSIONS) if dimension.keyword == "StudyTime")
_CALIBRATING = ("AccessionNumber", "StudyID", "StudyDescription", "IssuerOfPatientID", "PatientName")
"""Text keys that are often empty."""
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
        self._is_cut = False
        self._ignored: set[str] = set()
        self._fertile: dict[tuple[int, str], bool] = {}
        self._empty_matching: bool | None = None
        self._sample_empty: dict[str, str] = {}
        self._sample_dated = ""

    def studies(self) -> Iterator[FoundStudy]:
        """Every study once, as answered; raises `QueryTruncated` if some may be missing."""
        uids = [uid for uid in self._keys.get("StudyInstanceUID", "").split("\\") if uid]
        if uids and all(set(uid) <= set("0123456789.") for uid in uids):
            yield from self._by_uid(list(dict.fromkeys(uids)))
        else:
            yield from self._resolve(self._root, None)
        self._on_progress(len(self._found))

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
        seen: list[_Seen] = []
        says_cut = False
        try:
            for study in self._ask(self._query(domain)):
                seen.append(self._remember(study))
                if self._is_new(study):
                    # what the broad query did not bring was cut from it, or is new at the source
                    self._is_cut = self._is_cut or narrowed is not None
                    yield study
        except AnswersCut:
            says_cut = self._is_cut = True
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
            if dimension.keyword in self._ignored:
                continue
            # once beginnings are asked for, dates would only be walked through again for each of them
            if dimension.may_be_empty and (empty_unproven or self._asks_beginnings(domain)):
                continue
            parts = domain.parts[index].split([one.values[index] for one in seen])
            if not parts:
                continue
            missing = {one.study_instance_uid for one in seen}
            self._not_again.append(missing)
            try:
                for smaller in parts:
                    if (yield from self._is_barren(domain, index, smaller)):
                        continue
                    yield from self._resolve(domain.narrowed(index, smaller), index)
                if domain.parts[index].is_any and dimension.may_be_empty:
                    empty_unproven = not (yield from self._empty(domain, index, seen, missing))
            except _KeyIgnored:
                self._ignored.add(dimension.keyword)
                continue
            finally:
                self._not_again.remove(missing)
            unnamed &= missing
            if not missing and not (dimension.may_be_empty and empty_unproven):
                return
            if len(missing) == len(seen):
                self._ignored.add(dimension.keyword)
        if len(unnamed) < SMALL <= len(seen) - len(unnamed) and not self._looks_cut(len(seen)):
            return
        words = f"{domain.words} (of those without a date or time)" if empty_unproven else domain.words
        raise QueryTruncated(self._remote, words, self._most)

    def _looks_cut(self, answers: int) -> bool:
        """Whether a part brought a study that its whole had not, or so many answers may be a source's limit."""
        return self._is_cut or looks_like_a_cap(answers)

    def _asks_beginnings(self, domain: _Domain) -> bool:
        return any(
            not dimension.may_be_empty and part is not given
            for dimension, part, given in zip(DIMENSIONS, domain.parts, self._root.parts, strict=True)
        )

    def _is_barren(self, domain: _Domain, index: int, part: Part) -> Generator[FoundStudy, None, bool]:
        """Whether no study at all begins so, whatever its date: most beginnings are asked for once, not once a day."""
        if not isinstance(part, Beginning):
            return False
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
            try:
                answers = yield from self._resolve(
                    domain.narrowed(index, Nothing(DIMENSIONS[index].keyword)), index
                )
                if answers:
                    self._empty_matching = all(not one.values[index] for one in answers)
                elif self._empty_matching is None and len(seen) >= SMALL:
                    self._empty_matching = self._knows_empty_matching(index, seen)
            except (_KeyIgnored, QueryFailed):
                self._empty_matching = False
        if self._empty_matching:
            return True
        if self._is_cut or missing or not looks_like_a_cap(len(seen)):
            return not self._is_cut and not missing
        times = domain.parts[_TIME].split([one.values[_TIME] for one in seen])
        if index == _TIME or not times:
            return False
        for part in times:
            yield from self._resolve(domain.narrowed(_TIME, part), _TIME)
        return not self._is_cut

    def _knows_empty_matching(self, index: int, seen: Sequence[_Seen]) -> bool | None:
        """Tried with studies known to have an empty key, and one known to have a date; None without any to try."""
        if any(not one.values[index] for one in seen):
            return False  # it is there and was not answered
        if not self._sample_dated:
            return None
        try:
            for keyword, uid in self._sample_empty.items():
                if self._answers_one(uid, keyword, _NOBODYS_VALUE):
                    continue  # the source does not match this key at all
                return self._answers_one(uid, keyword, EMPTY) and not self._answers_one(
                    self._sample_dated, "StudyDate", EMPTY
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
        if not self._sample_dated and study.get("StudyDate"):
            self._sample_dated = uid
        for keyword in _CALIBRATING:
            if keyword not in self._sample_empty and study.attributes.get(keyword) == "":
                self._sample_empty[keyword] = uid
        return _Seen(uid, tuple(study.get(d.keyword).strip() for d in DIMENSIONS))


def looks_like_a_cap(answers: int) -> bool:
    """Round by ten up to a hundred, by fifty above, or a power of two."""
    return answers >= SMALL and (
        answers % 50 == 0 or (answers <= 100 and answers % 10 == 0) or answers & (answers - 1) == 0
    )
