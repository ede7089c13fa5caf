"""How a run ends in one sentence, and how it goes."""

from vna.jobs.outcome import Progress, RetrievalOutcome, duration_text, size_text


def test_nothing_found_is_completed_with_a_sentence() -> None:
    outcome = RetrievalOutcome()
    assert outcome.ok
    assert outcome.sentence.startswith("Nothing found")
    assert outcome.as_json()["state"] == "completed"


def test_one_incomplete_study_fails_the_run_and_is_named_with_its_reason() -> None:
    outcome = RetrievalOutcome(
        found=120, complete=119, incomplete=1, problems=("study 1.2: 3 of 9 missing.",)
    )
    assert not outcome.ok
    assert "1 of 120 studies incomplete: study 1.2" in outcome.sentence
    assert "a retry pulls only what is missing" in outcome.sentence


def test_only_the_first_three_reasons_are_in_the_sentence() -> None:
    reasons = tuple(f"study 1.{number}: missing." for number in range(5))
    sentence = RetrievalOutcome(found=5, incomplete=5, problems=reasons).sentence
    assert "study 1.2:" in sentence
    assert "study 1.3:" not in sentence
    assert "and 2 more" in sentence


def test_an_error_of_the_run_as_a_whole_is_its_sentence_and_its_problem() -> None:
    outcome = RetrievalOutcome(error="pacs: no connection.")
    assert not outcome.ok
    assert outcome.as_json()["problems"] == ["pacs: no connection."]


def test_progress_tells_rate_and_remaining_time_only_when_known() -> None:
    assert "remaining" not in Progress(10, 0, 5, 5_000_000, 10.0).sentence
    told = Progress(10, 5, 50, 50_000_000, 10.0)
    assert told.percent == 50.0
    assert told.sentence == "5 of 10 studies, 50 instances, 50.0 MB, 5.0 MB/s, about 10 s remaining"


def test_sizes_and_durations_are_written_for_people() -> None:
    assert [size_text(size) for size in (0, 999, 1500, 2.5e9, 3e12)] == [
        "0 B",
        "999 B",
        "1.5 kB",
        "2.5 GB",
        "3.0 TB",
    ]
    assert [duration_text(seconds) for seconds in (45, 720, 12000)] == ["45 s", "12 min", "3 h 20 min"]
