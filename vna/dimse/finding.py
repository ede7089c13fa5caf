"""C-FIND at study, series and image level: complete lists, or an error that says why not."""

from collections.abc import Callable, Iterator, Mapping, Sequence

from vna.dimse.gate import SourceGate
from vna.dimse.listing import Listing
from vna.dimse.node import OurNode
from vna.dimse.querying import Query, querying
from vna.dimse.splitting import AnswersCut, Splitter
from vna.errors import AnswerInvalid, QueryFailed, QueryTruncated, SourceCannotList
from vna.identity import FoundInstance, FoundStudy
from vna.site import RemoteServer

STUDY_KEYS = (
    "StudyInstanceUID",
    "StudyDate",
    "StudyTime",
    "StudyID",
    "StudyDescription",
    "AccessionNumber",
    "ReferringPhysicianName",
    "PatientID",
    "IssuerOfPatientID",
    "PatientName",
    "PatientBirthDate",
    "PatientSex",
    "ModalitiesInStudy",
    "SOPClassesInStudy",
    "NumberOfStudyRelatedSeries",
    "NumberOfStudyRelatedInstances",
)


def find_studies(
    remote: RemoteServer,
    node: OurNode,
    keys: Mapping[str, str],
    *,
    gate: SourceGate,
    on_progress: Callable[[int], None] = lambda _: None,
) -> Iterator[FoundStudy]:
    """All studies that match `keys` (keyword to value, PS3.4 C.2.2.2), each once, as they are answered.

    The query is cut as `vna.dimse.splitting` says; `QueryTruncated` comes after the studies that could be found
    and means that there may be more. `on_progress` is told how many were found so far. Also raises `QueryFailed`,
    `AnswerInvalid` and what an association raises.
    """
    with gate, querying(remote, node) as query:
        wanted = dict.fromkeys(STUDY_KEYS, "")

        def ask(narrowed: Mapping[str, str]) -> Iterator[FoundStudy]:
            for answer in query.ask("STUDY", {**wanted, **narrowed}):
                uid = answer.get("StudyInstanceUID", "")
                if not uid:
                    raise AnswerInvalid(remote.name, "a study without Study Instance UID")
                yield FoundStudy(uid, answer)

        yield from Splitter(remote.name, ask, keys, on_progress).studies()


def find_instances(
    remote: RemoteServer,
    node: OurNode,
    study_instance_uid: str,
    *,
    on_doubt: Callable[[str], None] = lambda _: None,
) -> Sequence[FoundInstance]:
    """Every instance of a study as the source lists it, series by series with the full unique keys.

    Raises `SourceCannotList` when the source refuses to list or lists nothing of a study it has, and
    `QueryTruncated` when a list shows signs of being cut. `on_doubt` is told, for the operator and without a full
    stop, what speaks against a list that is returned all the same: counts of sources may be wrong.
    """
    with querying(remote, node) as query:
        try:
            instances = Listing(remote.name, query, study_instance_uid, on_doubt).instances()
        except QueryFailed as error:
            if error.transient:
                raise
            reason = f"its answer at {error.level} level is status 0x{error.status:04X}"
            raise SourceCannotList(study_instance_uid, remote.name, reason) from error
        except AnswersCut:
            raise QueryTruncated(remote.name, f"the list of study {study_instance_uid}", 0) from None
    if not instances:
        raise SourceCannotList(study_instance_uid, remote.name, "it lists no instances of it")
    return instances


def find_deeper_values(
    remote: RemoteServer, node: OurNode, study_instance_uid: str, keywords: Sequence[str]
) -> Mapping[str, list[str]]:
    """The values of attributes that a study answer does not hold, from its series, else from its instances.

    A keyword without any value is missing in the result. An empty text among the values means that there is more
    of the study, a series without a value or left out by the source, and that nothing is known of it. Raises
    `QueryFailed` where the source refuses to list series, and what an association raises.
    """
    found: dict[str, dict[str, None]] = {keyword: {} for keyword in keywords}
    with querying(remote, node) as query:
        series: list[dict[str, str]] = []
        keys = {
            "StudyInstanceUID": study_instance_uid,
            "SeriesInstanceUID": "",
            **dict.fromkeys(keywords, ""),
        }
        try:
            series.extend(query.ask("SERIES", keys))  # keeps what came before an error
        except AnswersCut:
            found = {keyword: {"": None} for keyword in keywords}
        for one in series:
            told = {keyword: {text: None} for keyword in keywords if (text := one.get(keyword, ""))}
            open_keywords = [keyword for keyword in keywords if keyword not in told]
            if open_keywords:
                told |= _told_by_images(query, one, study_instance_uid, open_keywords)
            for keyword in keywords:
                found[keyword] |= told[keyword] or {"": None}
    return {keyword: list(texts) for keyword, texts in found.items() if any(texts)}


def _told_by_images(
    query: Query, series: Mapping[str, str], study_instance_uid: str, keywords: Sequence[str]
) -> dict[str, dict[str, None]]:
    """Per keyword the values of one series, an empty one where the source does not list all its images."""
    keys = {
        "StudyInstanceUID": study_instance_uid,
        "SeriesInstanceUID": series.get("SeriesInstanceUID", ""),
        "SOPInstanceUID": "",
    }
    told: dict[str, dict[str, None]] = {keyword: {} for keyword in keywords}
    try:
        for image in query.ask("IMAGE", {**keys, **dict.fromkeys(keywords, "")}):
            for keyword in keywords:
                if text := image.get(keyword, ""):
                    told[keyword][text] = None
    except AnswersCut:
        for texts in told.values():
            texts[""] = None
    except QueryFailed as error:
        if error.transient:
            raise
    return told
