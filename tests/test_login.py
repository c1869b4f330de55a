"""Who is let in, how fast a stranger may guess, and whose name a request gets. No server, and a clock of our own."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.datastructures import Headers

from studio.login import FREE_GUESSES, LONGEST_WAIT_S, MAX_REMEMBERED, Login
from studio.owners import (
    COOKIE,
    OWNER_HEADER,
    browser_owner,
    cookie_for,
    key_of,
    key_owner,
    new_token,
    owner_of,
    token_of,
)

RIGHT = "Basic " + base64.b64encode(b"me:secret").decode()
WRONG = "Basic " + base64.b64encode(b"me:guess").decode()
HERE, THERE = "192.0.2.1", "198.51.100.7"


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def login(clock: Clock) -> Login:
    return Login("me", "secret", clock)


def guess_wrong(login: Login, clock: Clock, times: int, source: str = HERE) -> None:
    """Each as soon as it is looked at."""
    for _ in range(times):
        clock.now += login.wait_s(source)
        assert login.judge(WRONG, source, None) == "wrong"


def test_a_few_wrong_passwords_cost_nothing(login: Login, clock: Clock) -> None:
    guess_wrong(login, clock, FREE_GUESSES - 1)
    assert clock.now == 0
    assert login.judge(RIGHT, HERE, None) == "right"


def test_a_guesser_waits_longer_each_time_and_nobody_else_waits(login: Login, clock: Clock) -> None:
    guess_wrong(login, clock, FREE_GUESSES)
    waits = []
    for _ in range(10):
        waits.append(login.wait_s(HERE))
        guess_wrong(login, clock, 1)
    assert waits == sorted(waits)
    assert waits[0] > 0
    assert waits[-1] == LONGEST_WAIT_S
    assert login.judge(RIGHT, THERE, None) == "right"


def test_while_a_source_waits_its_right_guess_looks_like_every_other(login: Login, clock: Clock) -> None:
    guess_wrong(login, clock, FREE_GUESSES)
    assert login.judge(RIGHT, HERE, None) == "wait"
    assert login.judge(WRONG, HERE, None) == "wait"
    clock.now += login.wait_s(HERE)
    assert login.judge(RIGHT, HERE, None) == "right"
    assert login.wait_s(HERE) == 0


def test_a_browser_that_was_let_in_does_not_wait_for_its_neighbours_guesses(login: Login, clock: Clock) -> None:
    assert login.judge(RIGHT, HERE, "my browser") == "right"
    guess_wrong(login, clock, FREE_GUESSES)
    assert login.judge(RIGHT, HERE, "my browser") == "right"
    guess_wrong(login, clock, FREE_GUESSES)
    assert login.judge(RIGHT, HERE, "another browser") == "wait"


def test_a_customer_with_a_whole_ipv6_network_is_one_guesser(login: Login, clock: Clock) -> None:
    for number in range(FREE_GUESSES):
        login.judge(WRONG, f"2001:db8:1:2::{number}", None)
    assert login.judge(RIGHT, "2001:db8:1:2:ffff::1", None) == "wait"
    assert login.judge(RIGHT, "2001:db8:1:3::1", None) == "right"
    for _ in range(FREE_GUESSES):
        login.judge(WRONG, f"::ffff:{HERE}", None)
    assert login.judge(RIGHT, HERE, None) == "wait"


def test_a_flood_of_sources_takes_no_more_memory_than_is_meant(login: Login) -> None:
    for number in range(MAX_REMEMBERED + 10):
        login.judge(WRONG, f"source {number}", None)
    assert len(login._guesses) == MAX_REMEMBERED


def test_nothing_given_is_no_guess(login: Login) -> None:
    for _ in range(2 * FREE_GUESSES):
        assert login.judge("", HERE, None) == "none"
    assert login.wait_s(HERE) == 0


@given(st.text(st.characters(codec="latin-1"), max_size=60))
def test_no_header_but_the_right_one_lets_in_and_none_breaks(text: str) -> None:
    assert Login("me", "secret").judge(f"Basic {text}", HERE, None) == "wrong"
    assert Login("me", "secret").judge(text or "x", HERE, None) == "wrong"
    for key in (text, f"Bearer {text}"):
        key_of(key)
    token = token_of(Headers({"cookie": text}))
    assert token is None or f"{COOKIE}=" in text


def test_a_cookie_is_read_back_and_a_made_up_one_is_not() -> None:
    token = new_token()
    cookie = cookie_for(token, is_secure=False)
    assert {"HttpOnly", "SameSite=Lax", "Path=/"} <= set(cookie.split("; "))
    assert "Secure" not in cookie
    assert cookie_for(token, is_secure=True).endswith("; Secure")
    assert token_of(Headers({"cookie": f"other=1; {cookie.partition(';')[0]}; more=2"})) == token
    for value in ("", "short", "x" * 44, "x" * 42 + "!", token + "\\"):
        assert token_of(Headers({"cookie": f"{COOKIE}={value}"})) is None


def test_an_owners_name_does_not_tell_the_secret_that_it_is_made_from() -> None:
    assert "abc" not in key_owner("abc")
    assert key_owner("abc") == key_owner("abc") != key_owner("abd")
    assert key_owner("abc").partition(":")[0] != browser_owner("abc").partition(":")[0]


def test_a_name_of_any_script_comes_through_the_header() -> None:
    raw = [(OWNER_HEADER.encode(), "张三".encode())]
    assert owner_of(Headers(raw=raw)) == "张三"
    assert owner_of(Headers(raw=[])) is None
