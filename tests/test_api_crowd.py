"""Many programs at once: nobody's video is lost or made twice, and nobody waits behind one who wants many."""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import Iterator

import httpx2
import pytest
from api_clients import STILL, TINY, async_client_of, data_url, error_in, http_client, picture
from running_studio import RunningStudio, running_studio

from studio.jobs.store import JobStore
from studio.jobs.types import MAX_WAITING
from studio.owners import key_owner

pytestmark = pytest.mark.filterwarnings("ignore:The Sora API:DeprecationWarning")
MODEST = [f"modest {number}" for number in range(40)]
GREEDY = ["greedy"] * 10


@pytest.fixture(scope="module")
def queue(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningStudio]:
    """A studio that takes orders and makes nothing yet."""
    with running_studio(tmp_path_factory.mktemp("crowd") / "data", "--workers", "0") as started:
        yield started


async def order_all(studio: RunningStudio) -> dict[str, str]:
    """Fifty videos asked for at the same time; the keys by the ids."""

    async with httpx2.AsyncClient() as http:

        async def order(key: str) -> tuple[str, str]:
            videos = async_client_of(studio, key, http).videos
            return (await videos.create(prompt=STILL, model="camera", input_reference=picture(), **TINY)).id, key

        # The greedy one comes first with all of its own.
        greedy = [await order(key) for key in GREEDY]
        return dict([*greedy, *await asyncio.gather(*map(order, MODEST))])


async def fetch_all(studio: RunningStudio, keys: dict[str, str]) -> list[bytes]:
    """The finished videos, each waited for by its own client."""

    async with httpx2.AsyncClient() as http:

        async def fetch(video_id: str, key: str) -> bytes:
            videos = async_client_of(studio, key, http).videos
            video = await videos.poll(video_id, poll_interval_ms=500)
            assert (video.status, video.error) == ("completed", None)
            return (await videos.download_content(video_id)).content

        return await asyncio.gather(*(fetch(video_id, key) for video_id, key in keys.items()))


def test_fifty_clients_each_get_their_video_once_and_in_fair_order(queue: RunningStudio) -> None:
    keys = asyncio.run(order_all(queue))
    assert len(keys) == len(MODEST) + len(GREEDY)
    # The queue survives, and now there is somebody who works.
    with running_studio(queue.data) as studio:
        videos = asyncio.run(fetch_all(studio, keys))
        assert all(video[4:8] == b"ftyp" for video in videos)
        made = Counter(re.findall(r"studio\.worker: Job (\S+): camera", studio.log()))
        assert made == dict.fromkeys(keys, 1)

    store = JobStore(queue.data)
    jobs = [job for video_id in keys if (job := store.get(video_id)) is not None]
    begun = [keys[job.id] for job in sorted(jobs, key=lambda job: job.started or 0)]
    # One of the greedy one's in the first round, in which everybody has a turn; the others after it.
    first_round, rest = begun[: len(MODEST) + 1], begun[len(MODEST) + 1 :]
    assert set(first_round) == {*MODEST, "greedy"}
    assert rest == ["greedy"] * (len(GREEDY) - 1)


def test_an_owner_with_too_many_waiting_videos_is_told_to_come_back_and_others_are_not(
    queue: RunningStudio,
) -> None:
    store = JobStore(queue.data)
    order = {**TINY["extra_body"], "prompt": STILL, "input_reference": data_url(picture())}
    with http_client(queue, "greediest") as greedy, http_client(queue, "modest") as modest:
        first = greedy.post("/v1/videos", json=order).json()["id"]
        request = store.get(first).request  # type: ignore[union-attr]
        store.submit_many([request] * (MAX_WAITING - 1), key_owner("greediest"))
        answer = greedy.post("/v1/videos", json=order)
        assert answer.status_code == 429
        assert answer.headers["retry-after"]
        assert answer.headers["x-should-retry"] == "true"
        assert str(MAX_WAITING) in error_in(answer.content)["message"]
        assert modest.post("/v1/videos", json=order).status_code == 200
