"""Whether a login is right, and how often a stranger may guess. Knows no page and no owner of jobs.

Whoever guesses is slowed by where the guesses come from, so nobody else waits; a browser that was let in before is not
slowed with its neighbours.
"""

from __future__ import annotations

import hmac
import ipaddress
import math
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from studio.owners import key_of, login_of

FREE_GUESSES = 5
"""People mistype; from the next one on each wrong password doubles the wait."""
LONGEST_WAIT_S = 60.0
MAX_REMEMBERED = 4096

Verdict = Literal["right", "wrong", "none", "wait"]


@dataclass(frozen=True, kw_only=True)
class _Guesses:
    wrong: int
    until: float


class Login:
    """One user's login. `clock` gives seconds and never goes back."""

    def __init__(self, user: str, password: str, clock: Callable[[], float] = time.monotonic) -> None:
        self.user = user
        self._pair = f"{user}:{password}".encode()
        self._password = password.encode()
        self._clock = clock
        self._guesses: OrderedDict[str, _Guesses] = OrderedDict()
        self._known: OrderedDict[str, None] = OrderedDict()

    def judge(self, authorization: str, source: str, browser: str | None) -> Verdict:
        """`wait` without a look at the password while `source` has to wait, unless it comes from a known `browser`.

        Looking would tell a right guess from the wrong ones, however fast they come.
        """
        if not authorization:
            return "none"
        place = _place_of(source)
        if self.wait_s(source) > 0 and browser not in self._known:
            return "wait"
        if not self._is_right(authorization):
            self._count(place)
            return "wrong"
        self._guesses.pop(place, None)
        if browser is not None:
            _remember(self._known, browser, None)
        return "right"

    def wait_s(self, source: str) -> float:
        """Seconds until the next guess from there is looked at; 0 where it would be now."""
        guesses = self._guesses.get(_place_of(source))
        return 0.0 if guesses is None else max(0.0, guesses.until - self._clock())

    def _count(self, place: str) -> None:
        before = self._guesses.get(place)
        wrong = 1 if before is None else before.wrong + 1
        # The exponent is bounded: two to the number of all guesses would not be.
        wait_s = 0.0 if wrong < FREE_GUESSES else min(LONGEST_WAIT_S, 2.0 ** min(wrong - FREE_GUESSES, 16))
        _remember(self._guesses, place, _Guesses(wrong=wrong, until=self._clock() + wait_s))

    def _is_right(self, authorization: str) -> bool:
        key = key_of(authorization)
        # A header is decoded as Latin-1, whatever was sent.
        given = login_of(authorization) if key is None else key.encode("latin-1")
        wanted = [self._pair] if key is None else [self._pair, self._password]
        return given is not None and any(hmac.compare_digest(given, each) for each in wanted)


def seconds_to_wait(seconds: float) -> int:
    """Whole seconds, as a Retry-After header wants them."""
    return max(1, math.ceil(seconds))


def _place_of(source: str) -> str:
    """Where guesses are counted together: an IPv4 address, or the /64 network that one IPv6 customer has."""
    try:
        address = ipaddress.ip_address(source)
    except ValueError:
        return source
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is None:
        return str(ipaddress.ip_network((address, 64), strict=False))
    return str(getattr(address, "ipv4_mapped", None) or address)


def _remember(memory: OrderedDict, key: str, value: object) -> None:  # type: ignore[type-arg]
    """The newest last; the oldest gives way."""
    memory.pop(key, None)
    memory[key] = value
    if len(memory) > MAX_REMEMBERED:
        memory.popitem(last=False)
