"""Who is admitted with what, by the rules alone; over real associations in test_receiving_admitted."""

import itertools

import pytest

from vna.dimse.admission import Knock, Reason, Refusal, Rules, admit, rules_of, subject_fits, subject_text
from vna.dimse.callers import Caller
from vna.settings import Settings
from vna.site import DicomServer, RemoteServer, Site, UnknownCallers

ELSEWHERE, HERE = "192.0.2.7", "127.0.0.1"


def remote(**changes: object) -> RemoteServer:
    facts: dict[str, object] = {"name": "ct", "aet": "CT1", "host": "192.0.2.7", "port": 104}
    return RemoteServer.model_validate(facts | changes)


def judged(
    *remotes: RemoteServer,
    calling: str = "CT1",
    called: str = "BACKUPDR",
    address: str = ELSEWHERE,
    subject: str = "",
    **rules: object,
) -> Caller | Refusal:
    made = Rules(("BACKUPDR", "PACS"), remotes, **rules)  # pyright: ignore[reportArgumentType]
    return admit(made, Knock(calling, called, address, subject, by_tls=bool(subject)))


def admitted(*remotes: RemoteServer, **knock: object) -> Caller:
    caller = judged(*remotes, **knock)  # pyright: ignore[reportArgumentType]
    assert isinstance(caller, Caller), caller
    return caller


def refused(*remotes: RemoteServer, **knock: object) -> Refusal:
    refusal = judged(*remotes, **knock)  # pyright: ignore[reportArgumentType]
    assert isinstance(refusal, Refusal), refusal
    return refusal


def test_a_remote_server_is_admitted_with_what_it_may_do() -> None:
    caller = admitted(remote())
    assert (caller.remote, caller.may_store, caller.may_retrieve) == (remote(), True, True)
    caller = admitted(remote(may_store=False))
    assert (caller.may_store, caller.may_retrieve) == (False, True)
    caller = admitted(remote(may_retrieve=False))
    assert (caller.may_store, caller.may_retrieve) == (True, False)


def test_a_remote_server_may_call_with_its_further_ae_titles() -> None:
    assert admitted(remote(calling_aets=("CT1_SCU",)), calling="CT1_SCU").calling_aet == "CT1_SCU"
    assert refused(remote(), calling="CT1_SCU").reason is Reason.calling_aet


def test_whoever_is_no_remote_server_is_refused_and_told_so() -> None:
    refusal = refused(remote(), calling="STRANGER")
    assert (refusal.result, refusal.source, refusal.diagnostic) == (1, 1, 3)
    assert "STRANGER" in refusal.sentence


def test_unknown_callers_may_store_where_the_site_says_so_and_never_retrieve() -> None:
    caller = admitted(calling="STRANGER", unknown_callers=UnknownCallers.store)
    assert (caller.remote, caller.may_store, caller.may_retrieve) == (None, True, False)


def test_each_of_our_ae_titles_may_be_called_and_no_other() -> None:
    assert admitted(remote(), called="PACS").called_aet == "PACS"
    refusal = refused(remote(), called="ELSE")
    assert (refusal.result, refusal.source, refusal.diagnostic) == (1, 1, 7)
    assert "BACKUPDR and PACS" in refusal.sentence


def test_a_remote_server_that_may_call_one_ae_title_may_not_call_another() -> None:
    assert admitted(remote(called_aets=("PACS",)), called="PACS")
    assert refused(remote(called_aets=("PACS",))).reason is Reason.called_aet


@pytest.mark.parametrize(
    ("addresses", "address", "is_admitted"),
    [
        (("192.0.2.7",), "192.0.2.7", True),
        (("192.0.2.8",), "192.0.2.7", False),
        (("192.0.2.0/24",), "192.0.2.200", True),
        (("192.0.2.0/24",), "192.0.3.1", False),
        (("192.0.2.0/24",), "::ffff:192.0.2.200", True),
        (("2001:db8::/32",), "2001:db8::1", True),
        (("2001:db8::/32", "192.0.2.1"), "192.0.2.1", True),
        ((), "203.0.113.1", True),
    ],
)
def test_a_remote_server_calls_from_its_addresses(
    addresses: tuple[str, ...], address: str, is_admitted: bool
) -> None:
    answer = judged(remote(addresses=addresses), address=address)
    assert isinstance(answer, Caller) is is_admitted
    if isinstance(answer, Refusal):
        assert answer.reason is Reason.address
        assert (answer.result, answer.source, answer.diagnostic) == (1, 1, 3)


def test_an_address_that_is_not_allowed_is_refused_also_where_unknown_callers_may_store() -> None:
    refusal = refused(remote(addresses=("192.0.2.8",)), unknown_callers=UnknownCallers.store)
    assert refusal.reason is Reason.address


def test_a_remote_server_with_a_tls_subject_must_show_it() -> None:
    with_subject = remote(tls_subject="ct1.example")
    assert (
        admitted(with_subject, subject="O=Clinic, CN=ct1.example").tls_subject == "O=Clinic, CN=ct1.example"
    )
    assert refused(with_subject, subject="CN=ct2.example").reason is Reason.tls_subject
    assert refused(with_subject).reason is Reason.tls


def test_two_remote_servers_with_one_ae_title_are_told_apart_by_address() -> None:
    first = remote(addresses=("192.0.2.1",), may_retrieve=False)
    second = remote(name="ct2", addresses=("192.0.2.2",))
    assert admitted(first, second, address="192.0.2.2").remote == second
    assert admitted(first, second, address="192.0.2.1").remote == first
    assert refused(first, second, address="192.0.2.3").reason is Reason.address


def test_open_to_loopback_lets_every_caller_of_this_machine_store_and_retrieve() -> None:
    caller = admitted(calling="STRANGER", address=HERE, open_to_loopback=True)
    assert (caller.may_store, caller.may_retrieve) == (True, True)
    strict = remote(addresses=("192.0.2.8",), tls_subject="x", may_retrieve=False)
    caller = admitted(strict, address=HERE, open_to_loopback=True)
    assert (caller.remote, caller.may_store, caller.may_retrieve) == (strict, True, True)


def test_open_to_loopback_opens_to_nobody_else() -> None:
    assert refused(calling="STRANGER", open_to_loopback=True).reason is Reason.calling_aet
    assert refused(remote(addresses=("192.0.2.8",)), open_to_loopback=True).reason is Reason.address
    assert (
        refused(calling="STRANGER", address=HERE, called="ELSE", open_to_loopback=True).reason
        is Reason.called_aet
    )


def test_we_ourselves_may_ask_whether_we_are_there_and_nothing_more() -> None:
    for address in (HERE, "::1", "::ffff:127.0.0.1"):
        caller = admitted(calling="BACKUPDR", address=address)
        assert (caller.may_store, caller.may_retrieve) == (False, False)
    assert refused(calling="BACKUPDR").reason is Reason.calling_aet


def test_the_remote_servers_transfer_syntaxes_go_before_the_servers() -> None:
    server, own = ("1.2.840.10008.1.2.1",), ("1.2.840.10008.1.2.4.90",)
    assert admitted(remote(transfer_syntaxes=own), transfer_syntaxes=server).transfer_syntaxes == own
    assert admitted(remote(), transfer_syntaxes=server).transfer_syntaxes == server
    assert admitted(remote()).transfer_syntaxes == ()


def test_the_rules_are_those_of_settings_and_site() -> None:
    server = DicomServer(
        other_aets=("PACS", "MAIN"),
        unknown_callers=UnknownCallers.store,
        transfer_syntaxes=("1.2.840.10008.1.2",),
    )
    made = rules_of(
        Settings(scp_aet="MAIN"), Site(remotes={"ct": remote()}, server=server), open_to_loopback=True
    )
    assert made == Rules(
        ("MAIN", "PACS"), (remote(),), UnknownCallers.store, ("1.2.840.10008.1.2",), open_to_loopback=True
    )


@pytest.mark.parametrize(
    ("wanted", "fits"),
    [
        ("ct1.example", True),
        ("CT1.Example", True),
        ("ct2.example", False),
        ("Clinic, Ltd", False),
        (r"CN=ct1.example,O=Clinic\, Ltd,C=DE", True),
        (r"C = DE, O = Clinic\, Ltd, CN = ct1.example", True),
        ("CN=ct1.example", False),
        ("CN=ct1.example,O=Clinic", False),
        ("CN=", False),
    ],
)
def test_a_subject_is_wanted_by_common_name_or_whole(wanted: str, fits: bool) -> None:
    subject = subject_text(
        [[("countryName", "DE")], [("organizationName", "Clinic, Ltd")], [("commonName", "ct1.example")]]
    )
    assert subject == r"C=DE, O=Clinic\, Ltd, CN=ct1.example"
    assert subject_fits(wanted, subject) is fits


def test_a_certificate_without_a_common_name_fits_no_common_name() -> None:
    assert not subject_fits("ct1", subject_text([[("organizationName", "ct1")]]))
    assert not subject_fits("ct1", "")


def test_one_answer_for_every_combination_of_address_and_ae_titles() -> None:
    """No combination raises, and nobody unknown is ever let in to retrieve."""
    remotes = (remote(), remote(name="b", aet="MR1", called_aets=("PACS",), addresses=("10.0.0.0/8",)))
    for calling, called, address, unknown in itertools.product(
        ("CT1", "MR1", "BACKUPDR", "", "X"),
        ("BACKUPDR", "PACS", "", "X"),
        (HERE, "10.1.1.1", "fe80::1%2", "203.0.113.1"),
        UnknownCallers,
    ):
        answer = judged(*remotes, calling=calling, called=called, address=address, unknown_callers=unknown)
        if isinstance(answer, Caller) and answer.remote is None:
            assert not answer.may_retrieve
