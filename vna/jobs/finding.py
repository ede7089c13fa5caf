"""find and filter: which studies of the source are wanted, written to the ledger."""

from collections.abc import Callable, Mapping, Sequence

from vna.dimse import find_deeper_values, find_studies
from vna.errors import BackupError, is_transient
from vna.jobs.filters import (
    REQUIRED_KEYWORDS,
    STUDY_KEYWORDS,
    Filter,
    Match,
    judge,
    judge_deeper,
    query_keys,
)
from vna.jobs.ledger import LedgerStudy
from vna.jobs.run import BackupRun

DEEPER_KEYWORD = {"ModalitiesInStudy": "Modality"}
"""What a study-level key is called where single series are asked."""


def find(run: BackupRun, on_progress: Callable[[int], None] = lambda _: None) -> int:
    """Ask the source for all studies the filters can ask for; every one found is a row of the ledger.

    Raises `QueryTruncated` rather than take a list that may be cut.
    """
    studies = find_studies(
        run.remote, run.node, query_keys(run.request.filters), gate=run.gate, on_progress=on_progress
    )
    return run.ledger.add_found(run.run_id, studies)


def choose(run: BackupRun) -> int:
    """Apply the filters on our side; returns how many studies are wanted.

    A study whose attribute the source does not tell is backed up all the same and noted: for a backup an
    image too many is better than one too few.
    """
    wanted, excluded = 0, list[str]()
    answered = _answered_keywords(run)
    for study in run.ledger.to_do(run.run_id):
        match, open_questions = judge(run.request.filters, study.attributes, answered)
        note = ""
        if match is Match.unknown:
            match, note = _ask_deeper(run, study, open_questions)
        if match is Match.no:
            excluded.append(study.study_instance_uid)
            continue
        wanted += 1
        if note:
            run.ledger.mark(run.run_id, study.study_instance_uid, note=note)
    run.ledger.mark(run.run_id, excluded, state="excluded")
    run.ledger.mark_rolling_share(run.run_id, run.remote.name, run.remote.recheck_share)
    return wanted


def _answered_keywords(run: BackupRun) -> set[str]:
    """The keywords this source tells: those every source must, and optional ones it filled in for some study."""
    optional = {condition.keyword for condition in run.request.filters} & (STUDY_KEYWORDS - REQUIRED_KEYWORDS)
    answered = set(REQUIRED_KEYWORDS)
    if optional:
        for study in run.ledger.to_do(run.run_id):
            answered |= {keyword for keyword in optional if study.attributes.get(keyword)}
            if optional <= answered:
                break
    return answered


def _ask_deeper(run: BackupRun, study: LedgerStudy, questions: Sequence[Filter]) -> tuple[Match, str]:
    keywords = [DEEPER_KEYWORD.get(question.keyword, question.keyword) for question in questions]
    try:
        with run.gate:
            found = find_deeper_values(run.remote, run.node, study.study_instance_uid, keywords)
    except BackupError as error:
        if is_transient(error):
            raise
        found: Mapping[str, Sequence[str]] = {}
    values = {
        question.keyword: found.get(keyword, ())
        for question, keyword in zip(questions, keywords, strict=True)
    }
    match = judge_deeper(questions, values)
    if match is not Match.unknown:
        return match, ""
    unknown = ", ".join(
        question.keyword for question in questions if not all(values[question.keyword] or ("",))
    )
    return match, f"study {study.study_instance_uid}: {unknown} could not be checked; included."
