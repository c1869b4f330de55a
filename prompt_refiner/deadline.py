"""Work that is waited for so long and no longer. Knows nothing of what the work is."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, wait
from typing import TypeVar

from prompt_refiner.failures import LlmFailure

T = TypeVar("T")

_POLL_S = 0.05


class Deadline:
    """When an answer is no longer wanted: its time is over, or the person does not wait any more."""

    def __init__(self, seconds: float) -> None:
        self._ends = time.monotonic() + seconds
        self._given_up = threading.Event()
        self._lock = threading.Lock()
        self._on_give_up: list[Callable[[], None]] = []

    def left_s(self) -> float:
        """Seconds that are left, never negative."""
        return 0.0 if self._given_up.is_set() else max(self._ends - time.monotonic(), 0.0)

    def check(self) -> None:
        """LlmFailure `timeout` when nothing is left."""
        if self.left_s() <= 0:
            raise LlmFailure("timeout")

    def pause(self, seconds: float) -> None:
        """Waits, and ends early when nobody waits for the answer."""
        self._given_up.wait(seconds)
        self.check()

    def on_give_up(self, action: Callable[[], None]) -> None:
        """Has `action` called, from another thread, when the answer is given up; at once if it already is."""
        with self._lock:
            self._on_give_up.append(action)
            is_late = self._given_up.is_set()
        if is_late:
            action()

    def give_up(self) -> None:
        with self._lock:
            self._given_up.set()
            actions = tuple(self._on_give_up)
        for action in actions:
            action()


def within_deadline(work: Callable[[Deadline], T], *, deadline_s: float, cancelled: Callable[[], bool]) -> T:
    """Runs `work` in its own thread and waits for it at most `deadline_s` seconds; raises what it raises.

    The client's own timeouts restart with every byte that arrives, and a name lookup has none, so the wait happens
    here. LlmFailure `timeout` or `cancelled` gives the work up and leaves its thread to end by itself.
    """
    future: Future[T] = Future()
    deadline = Deadline(deadline_s)

    def run() -> None:
        try:
            future.set_result(work(deadline))
        except BaseException as error:  # noqa: BLE001 - handed to the waiting thread, which raises it
            future.set_exception(error)

    threading.Thread(target=run, name="prompt-refiner", daemon=True).start()
    try:
        while not future.done():
            if deadline.left_s() <= 0:
                raise LlmFailure("timeout")
            if cancelled():
                raise LlmFailure("cancelled")
            wait((future,), timeout=min(_POLL_S, deadline.left_s()))
    except LlmFailure:
        deadline.give_up()
        raise
    return future.result()
