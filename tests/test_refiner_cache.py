"""The same question is asked once: what is kept, for how long, and what is never kept. HTTP on loopback only."""

from __future__ import annotations

import stat
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest
from loopback_llm import ANSWER, TYPED, WAN, Service, answer, completion, send, serving
from test_refiner_wire import picture

from prompt_refiner import RefineResult, RefinerSettings, cache, load_settings
from prompt_refiner.cache import KEEP_S, AnswerCache, Kept


@pytest.fixture
def service() -> Iterator[Service]:
    with serving() as playing:
        playing.says(answer())
        yield playing


@pytest.fixture
def settings(service: Service, tmp_path: Path) -> RefinerSettings:
    return replace(service.settings(), cache_path=tmp_path / "deep" / "cache.sqlite3")


def test_the_same_question_is_asked_once_and_told(service: Service, settings: RefinerSettings) -> None:
    first, second = service.refine(settings=settings), service.refine(settings=settings)
    assert len(service.requests) == 1
    assert first.notices == ()
    assert [notice.code for notice in second.notices] == ["from_cache"]
    assert second.usage is None
    same = {"latency_s": 0.0, "usage": None, "notices": ()}
    assert replace(first, **same) == replace(second, **same)
    assert settings.cache_path is not None
    assert stat.S_IMODE(settings.cache_path.stat().st_mode) == 0o600


@pytest.mark.parametrize(
    "other",
    [
        {"text": TYPED + "，"},
        {"style": WAN},
        {"fidelity": "creative"},
        {"locked": ("海浪",)},
        {"picture": picture((64, 64))},
        {"settings": {"model": "another"}},
        {"settings": {"provider": "vllm"}},
    ],
    ids=lambda other: next(iter(other)),
)
def test_another_question_is_asked(service: Service, settings: RefinerSettings, other: dict[str, Any]) -> None:
    service.says(answer(refined_prompt="海浪 Ocean waves crashing, camera zooming in"))
    service.refine(settings=settings, style=WAN if "style" not in other else replace(WAN, token_limit=75))
    changed = replace(settings, **other.pop("settings")) if "settings" in other else settings
    service.refine(**{"style": WAN, "settings": changed, **other})
    assert len(service.requests) == 2


def test_failures_are_never_kept(service: Service, settings: RefinerSettings) -> None:
    service.play = lambda handler, body: send(handler, 401, {"error": {"message": "no"}})
    assert service.refine(settings=settings).source == "offline"
    service.says("no JSON")
    assert service.refine(settings=settings).source == "offline"
    service.says(answer())
    assert service.refine(settings=settings).source == "llm"
    assert len(service.requests) == 4


def test_without_a_file_nothing_is_kept(service: Service) -> None:
    service.refine()
    service.refine()
    assert len(service.requests) == 2


def test_two_who_ask_the_same_at_once_ask_once(service: Service, settings: RefinerSettings) -> None:
    def play(handler: BaseHTTPRequestHandler, body: dict[str, Any]) -> None:
        service.over.wait(0.3)
        send(handler, 200, completion(answer()))

    service.play = play
    results: list[RefineResult] = []
    threads = [threading.Thread(target=lambda: results.append(service.refine(settings=settings))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(service.requests) == 1
    assert {result.refined_prompt for result in results} == {ANSWER["refined_prompt"]}


def test_a_file_that_is_no_database_does_not_matter(service: Service, settings: RefinerSettings) -> None:
    assert settings.cache_path is not None
    settings.cache_path.parent.mkdir()
    settings.cache_path.write_text("not a database, and long enough to be read as one " * 20)
    assert service.refine(settings=settings).source == "llm"


def test_what_is_old_is_let_go(tmp_path: Path) -> None:
    file = AnswerCache(tmp_path / "c.sqlite3")
    file.put("a", Kept(text="x", with_picture=True), now=0)
    assert file.get("a", now=KEEP_S - 1) == Kept(text="x", with_picture=True)
    assert file.get("a", now=KEEP_S + 1) is None


def test_the_file_stays_small_and_the_newest_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "MAX_CHARACTERS", 25)
    file = AnswerCache(tmp_path / "c.sqlite3")
    for time_s, key in enumerate("abc"):
        file.put(key, Kept(text="x" * 10, with_picture=False), now=time_s)
    assert [key for key in "abc" if file.get(key, now=3)] == ["b", "c"]


def test_the_environment_says_where_or_off() -> None:
    env = {"MOONSHOT_API_KEY": "sk-cache-0123456789"}
    assert load_settings({**env, "I2V_REFINER_CACHE": "off"}).cache_path is None
    assert load_settings({**env, "I2V_REFINER_CACHE": "/some/file"}).cache_path == Path("/some/file")
    default = load_settings({**env, "XDG_CACHE_HOME": "/home/cache"}).cache_path
    assert default == Path("/home/cache/image-to-video-studio/refiner.sqlite3")
