"""C-FIND at study, series and image level: complete lists, or an error that says why not."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

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


def find_instances(remote: RemoteServer, node: OurNode, study_instance_uid: str) -> Sequence[FoundInstance]:
    """Every instance of a study as the source lists it, series by series with the full unique keys.

    Raises `SourceCannotList` when the source refuses to list or lists nothing of a study it has, and
    `QueryTruncated` when a list shows signs of being cut.
    """
    with querying(remote, node) as query:
        try:
            instances = Listing(remote.name, query, study_instance_uid).instances()
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

    A keyword without any value is missing in the result. Raises `QueryFailed` and what an association raises.
    """
    found: dict[str, list[str]] = {}
    with querying(remote, node) as query:
        keys = {"StudyInstanceUID": study_instance_uid, "SeriesInstanceUID": ""}
        series = list(query.ask("SERIES", {**keys, **dict.fromkeys(keywords, "")}))
        _collect(found, series, keywords)
        open_keywords = [keyword for keyword in keywords if keyword not in found]
        if open_keywords:
            for one in series:
                _collect(found, _images(query, one, study_instance_uid, open_keywords), open_keywords)
    return found


def _images(
    query: Query, series: Mapping[str, str], study_instance_uid: str, keywords: Sequence[str]
) -> Iterator[dict[str, str]]:
    keys = {
        "StudyInstanceUID": study_instance_uid,
        "SeriesInstanceUID": series.get("SeriesInstanceUID", ""),
        "SOPInstanceUID": "",
    }
    return query.ask("IMAGE", {**keys, **dict.fromkeys(keywords, "")})


def _collect(
    found: dict[str, list[str]],
    answers: Iterable[Mapping[str, str]],
    keywords: Sequence[str],
) -> None:
    for answer in answers:
        for keyword in keywords:
            text = answer.get(keyword, "")
            if text and text not in found.setdefault(keyword, []):
                found[keyword].append(text)
    for keyword in keywords:
        if not found.get(keyword):
            found.pop(keyword, None)
