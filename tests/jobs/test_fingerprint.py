"""Growth is no change; an answer that differs is one."""

from vna.identity import FoundInstance, FoundStudy
from vna.jobs.fingerprint import describes_a_change, differs_from_ours, fingerprint


def instance(number: int, series: str = "1.2.1", **attributes: str) -> FoundInstance:
    return FoundInstance(f"1.2.9.{number}", series, attributes=attributes)


def study(**attributes: str) -> FoundStudy:
    return FoundStudy("1.2", attributes)


def test_a_grown_study_is_not_a_changed_one() -> None:
    before = fingerprint(study(NumberOfStudyRelatedInstances="1"), [instance(1, InstanceNumber="1")])
    after = fingerprint(
        study(NumberOfStudyRelatedInstances="3"),
        [instance(1, InstanceNumber="1"), instance(2, InstanceNumber="2"), instance(3, "1.2.2")],
    )
    assert not describes_a_change(before, after)


def test_an_attribute_answered_differently_at_study_or_image_level_is_a_change() -> None:
    before = fingerprint(study(PatientName="DOE^J"), [instance(1, ContentTime="101010")])
    assert describes_a_change(
        before, fingerprint(study(PatientName="ROE^J"), [instance(1, ContentTime="101010")])
    )
    assert describes_a_change(
        before, fingerprint(study(PatientName="DOE^J"), [instance(1, ContentTime="111111")])
    )


def test_what_servers_add_or_drop_is_no_change() -> None:
    before = fingerprint(study(PatientName="DOE^J", StudyTime="101010"), [])
    assert not describes_a_change(
        before, fingerprint(study(PatientName="DOE^J^^ ", StudyTime="101010.000000"), [])
    )


def test_our_copy_is_compared_only_where_the_source_says_something() -> None:
    ours = {"PatientName": "DOE^J", "StudyDescription": "CHEST"}
    assert differs_from_ours(study(PatientName="DOE^J", StudyDescription=""), ours) == ()
    assert differs_from_ours(study(PatientName="ROE^J", InstitutionName="N"), ours) == ("PatientName",)
