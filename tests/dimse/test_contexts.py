"""What a C-GET proposes."""

from collections import Counter

import pytest
from pydicom.uid import ExplicitVRLittleEndian, JPEG2000Lossless, JPEGLosslessSV1

from vna.dimse import retrieve_groups
from vna.identity import FoundInstance

CT = "1.2.840.10008.5.1.4.1.1.2"
MR = "1.2.840.10008.5.1.4.1.1.4"
BASIC_TEXT_SR = "1.2.840.10008.5.1.4.1.1.88.11"
GET = "1.2.840.10008.5.1.4.1.2.2.3"


def instance(sop_class: str | None, syntax: str | None = None) -> FoundInstance:
    return FoundInstance("1.2.3", "1.2", sop_class, syntax)


def classes(groups: list) -> set[str]:
    return {uid for group in groups for uid in group.sop_classes}


def test_the_classes_of_the_wanted_instances_are_proposed_and_no_others() -> None:
    groups = retrieve_groups([instance(CT)], [instance(CT), instance(MR)], {"SOPClassesInStudy": MR})
    assert classes(groups) == {CT}
    assert len(groups) == 1


def test_without_classes_in_the_list_those_of_the_study_are_proposed() -> None:
    assert classes(retrieve_groups([instance(None)], [], {"SOPClassesInStudy": f"{CT}\\{MR}"})) == {CT, MR}


def test_a_list_that_names_only_some_classes_is_completed() -> None:
    groups = retrieve_groups([instance(CT), instance(None)], [], {"SOPClassesInStudy": MR})
    assert classes(groups) == {CT, MR}


def test_when_nothing_is_known_all_storage_classes_are_proposed_the_common_ones_first() -> None:
    groups = retrieve_groups([], [], {})
    assert groups[0].sop_classes[0] == CT
    assert len(classes(groups)) > 150


@pytest.mark.parametrize("instances", [[], [instance(CT)], [instance(f"1.2.3.{n}") for n in range(40)]])
def test_no_association_proposes_more_than_128_contexts(instances: list[FoundInstance]) -> None:
    for group in retrieve_groups(instances, [], {}):
        assert len(group.contexts) <= 128
        assert group.contexts[0].abstract_syntax == GET
        assert {role.sop_class_uid for role in group.roles} == set(group.sop_classes)
        assert all(role.scp_role for role in group.roles)


def test_each_transfer_syntax_has_a_context_of_its_own() -> None:
    (group,) = retrieve_groups([instance(CT)], [], {})
    syntaxes = Counter(str(context.transfer_syntax[0]) for context in group.contexts[1:])
    assert all(len(context.transfer_syntax) == 1 for context in group.contexts[1:])
    assert {ExplicitVRLittleEndian, JPEGLosslessSV1, JPEG2000Lossless} <= syntaxes.keys()
    assert set(syntaxes.values()) == {1}


def test_the_stored_syntax_is_proposed_first_even_one_we_do_not_know() -> None:
    (group,) = retrieve_groups([instance(CT, "1.2.3.4.5")], [], {})
    assert group.contexts[1].transfer_syntax == ["1.2.3.4.5"]


def test_a_text_document_is_not_asked_for_in_jpeg() -> None:
    (group,) = retrieve_groups([instance(BASIC_TEXT_SR)], [], {})
    assert JPEGLosslessSV1 not in {context.transfer_syntax[0] for context in group.contexts}


def test_a_private_class_is_proposed_with_every_syntax() -> None:
    (group,) = retrieve_groups([instance("1.3.12.2.1107.5.9.1")], [], {})
    assert JPEG2000Lossless in {context.transfer_syntax[0] for context in group.contexts}
