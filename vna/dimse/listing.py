"""The instances of one study, and the signs that a list of them was cut.

Series and images cannot be asked for by range, so a cut list cannot be put together here; it can be noticed. A
source that once sent more than N answers does not cut at N. For the longest list the source's own count, or a
question for the numbers next to those answered, tells whether there are more.

Where neither does, a count above the list is not proof enough, for counts may be stale or wrong (field note 6): it
makes the list a cut one only if the list also has a round length, or if several series end at the same length.
Any other contradiction, and a round length that nothing confirms, is a doubt: the list stands and the doubt is told.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence

from vna.dimse.querying import Query
from vna.dimse.splitting import looks_like_a_cap
from vna.errors import AnswerInvalid, QueryTruncated, SourceCannotList
from vna.identity import FoundInstance

SERIES_KEYS = ("SeriesInstanceUID", "Modality", "SeriesNumber", "NumberOfSeriesRelatedInstances")
IMAGE_KEYS = (
    "SOPInstanceUID",
    "SOPClassUID",
    "AvailableTransferSyntaxUID",
    "InstanceNumber",
    "ContentDate",
    "ContentTime",
    "AcquisitionDate",
    "AcquisitionTime",
    "InstanceCreationDate",
    "InstanceCreationTime",
    "NumberOfFrames",
    "Rows",
    "Columns",
    "BitsAllocated",
)
_UNIQUE = frozenset({"StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "QueryRetrieveLevel"})
_MOST_PROBES = 5
_DOUBTFUL_FROM = 50
"""No limit of a source below is known; shorter round lists are too common to be worth a word."""


class Listing:
    """One study at one source, asked over one association."""

    def __init__(
        self,
        remote: str,
        query: Query,
        study_instance_uid: str,
        on_doubt: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._remote, self._query, self._study = remote, query, study_instance_uid
        self._on_doubt = on_doubt
        self._short: Counter[int] = Counter()
        """How many series the source counts more of than it lists, by the length of the list."""
        self._most = 0

    def instances(self) -> list[FoundInstance]:
        """All instances; raises `QueryTruncated`, `SourceCannotList`, `AnswerInvalid` and what a query raises."""
        series = self._ask_series()
        lists = {uid: self._ask_images(uid) for uid in series}
        self._check("SERIES", {}, "SeriesInstanceUID", "SeriesNumber", list(series.values()), None)
        counts = {uid: _number(one.get("NumberOfSeriesRelatedInstances", "")) for uid, one in series.items()}
        self._short.update(len(images) for uid, images in lists.items() if (counts[uid] or 0) > len(images))
        for uid, images in lists.items():
            count = counts[uid]
            if not images and count != 0:
                reason = f"it lists no instances of series {uid}"
                raise SourceCannotList(self._study, self._remote, reason)
            self._check(
                "IMAGE", {"SeriesInstanceUID": uid}, "SOPInstanceUID", "InstanceNumber", images, count
            )
        found: dict[str, FoundInstance] = {}
        for uid, images in lists.items():
            for image in images:
                instance = _instance(image, uid)
                found.setdefault(instance.sop_instance_uid, instance)
        return list(found.values())

    def _ask_series(self) -> dict[str, dict[str, str]]:
        series: dict[str, dict[str, str]] = {}
        for answer in self._answers("SERIES", {}, SERIES_KEYS):
            uid = answer.get("SeriesInstanceUID", "")
            if not uid:
                raise AnswerInvalid(self._remote, "a series without Series Instance UID")
            series[uid] = answer
        return series

    def _ask_images(self, series_instance_uid: str) -> list[dict[str, str]]:
        images = list(self._answers("IMAGE", {"SeriesInstanceUID": series_instance_uid}, IMAGE_KEYS))
        if not all(image.get("SOPInstanceUID") for image in images):
            raise AnswerInvalid(self._remote, "an instance without SOP Instance UID")
        self._most = max(self._most, len(images))
        return images

    def _answers(
        self, level: str, unique: Mapping[str, str], keys: Iterable[str]
    ) -> Iterable[dict[str, str]]:
        return self._query.ask(level, {**dict.fromkeys(keys, ""), "StudyInstanceUID": self._study, **unique})

    def _check(
        self,
        level: str,
        unique: Mapping[str, str],
        uid_keyword: str,
        number_keyword: str,
        answers: Sequence[Mapping[str, str]],
        count: int | None,
    ) -> None:
        """Raise `QueryTruncated` if the list is, or cannot be told from, a cut one."""
        listed = len({answer[uid_keyword] for answer in answers})
        short = count is not None and count > listed
        if len(answers) < self._most or count == listed or not (short or looks_like_a_cap(len(answers))):
            return
        known = {answer[uid_keyword] for answer in answers}
        numbers = {n for answer in answers if (n := _number(answer.get(number_keyword, ""))) is not None}
        reliable = False
        for number in _probes(numbers):
            keys = {**unique, number_keyword: str(number)}
            answered = {a.get(uid_keyword, "") for a in self._answers(level, keys, [uid_keyword])}
            if answered - known:
                raise self._truncated(unique, len(answers))
            if number in numbers:  # the control: the source does match this key
                reliable = 0 < len(answered) < len(known)
        if reliable:
            return
        if short and (looks_like_a_cap(len(answers)) or self._short[len(answers)] > 1):
            raise self._truncated(unique, len(answers))
        self._tell_doubt(unique, len(answers), count if short else None)

    def _tell_doubt(self, unique: Mapping[str, str], answers: int, count: int | None) -> None:
        where = "".join(f"series {uid}" for uid in unique.values()) or f"study {self._study}"
        if count is not None:
            self._on_doubt(f"{self._remote} counts {count} instances in {where} and lists {answers}")
        elif answers >= _DOUBTFUL_FROM:
            self._on_doubt(f"{self._remote} lists {answers} of {where}, which may be a limit of its answers")

    def _truncated(self, unique: Mapping[str, str], answers: int) -> QueryTruncated:
        where = "".join(f" in series {uid}" for uid in unique.values())
        return QueryTruncated(self._remote, f"the list of study {self._study}{where}", answers)


def _probes(numbers: set[int]) -> list[int]:
    """A known number as control, the neighbours of the list, and gaps in it."""
    if not numbers:
        return []
    first, last = min(numbers), max(numbers)
    gaps = [n for n in range(first, min(last, first + 10_000)) if n not in numbers][:_MOST_PROBES]
    return [first, last + 1, *([first - 1] if first > 0 else []), *gaps]


def _number(text: str) -> int | None:
    try:
        return int(text)
    except ValueError:
        return None


def _instance(image: Mapping[str, str], series_instance_uid: str) -> FoundInstance:
    syntax = image.get("AvailableTransferSyntaxUID", "").split("\\")[0]
    return FoundInstance(
        sop_instance_uid=image["SOPInstanceUID"],
        series_instance_uid=image.get("SeriesInstanceUID") or series_instance_uid,
        sop_class_uid=image.get("SOPClassUID") or None,
        transfer_syntax_uid=syntax or None,
        attributes={key: text for key, text in image.items() if key not in _UNIQUE},
    )
