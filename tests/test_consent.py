"""Whether a picture may leave is asked once for each host and kept. Real files, no page."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest

from studio.consent import FILE_NAME, Consents

REMOTE = "api.moonshot.cn"


def test_nobody_was_asked_yet(tmp_path: Path) -> None:
    assert Consents(tmp_path / "data").consent_for(REMOTE) is None
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("allowed", [True, False])
def test_an_answer_is_kept_for_this_host_alone_and_outlives_the_program(tmp_path: Path, allowed: bool) -> None:
    Consents(tmp_path / "data").give_consent(REMOTE, allowed)
    later = Consents(tmp_path / "data")
    assert later.consent_for(REMOTE) is allowed
    assert later.consent_for("API.moonshot.cn.") is allowed
    assert later.consent_for("api.moonshot.ai") is None
    assert later.consent_for("moonshot.cn") is None


def test_the_last_answer_holds(tmp_path: Path) -> None:
    consents = Consents(tmp_path)
    consents.give_consent(REMOTE, True)
    consents.give_consent("api.z.ai", True)
    consents.give_consent(REMOTE, False)
    assert (consents.consent_for(REMOTE), consents.consent_for("api.z.ai")) == (False, True)
    assert [path.name for path in tmp_path.iterdir()] == [FILE_NAME]


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST", "127.0.0.1", "127.9.9.9", "::1", "[::1]"])
def test_this_machine_needs_no_consent(tmp_path: Path, host: str) -> None:
    assert Consents(tmp_path).consent_for(host) is True


@pytest.mark.parametrize("host", ["192.168.1.5", "10.0.0.1", "127.0.0.1.example.com", "localhost.example.com", ""])
def test_any_other_machine_does(tmp_path: Path, host: str) -> None:
    assert Consents(tmp_path).consent_for(host) is None


@pytest.mark.parametrize("broken", ["", "{}", "[]", '{"hosts": {"api.moonshot.cn": "yes"}}', '{"hosts": {"api.mo'])
def test_a_broken_file_allows_nothing_and_is_replaced_by_the_next_answer(tmp_path: Path, broken: str) -> None:
    (tmp_path / FILE_NAME).write_text(broken)
    consents = Consents(tmp_path)
    assert consents.consent_for(REMOTE) is None
    consents.give_consent(REMOTE, True)
    assert consents.consent_for(REMOTE) is True


def test_answers_of_several_threads_are_all_kept(tmp_path: Path) -> None:
    consents = Consents(tmp_path)
    hosts = [f"host-{number}.example" for number in range(16)]
    threads = [threading.Thread(target=consents.give_consent, args=(host, True)) for host in hosts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert json.loads((tmp_path / FILE_NAME).read_text()) == {"hosts": dict.fromkeys(sorted(hosts), True)}
