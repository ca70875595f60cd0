"""One prefix of a store, two cells: the second leaves it alone and says why, until its operator decides."""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import redis
import redis.asyncio

from app.contract.objects.names import CELL_MARK
from app.contract.redis import keys, store_words
from app.contract.redis.store import JobStore
from app.contract.redis.store_words import StoreWords
from app.jobs import cell_mark
from app.jobs.cell_mark import CellMark
from app.pictures.errors import StoreDenied, StoreFull, StoreTaken, StoreUnavailable
from app.pictures.store import PictureStore
from tests.app.conftest import OPERATOR_TOKEN, OneGateway, ScriptedWorker
from tests.app.test_jobs import PARAMETERS
from tests.app.test_refusals import problem
from tests.pictures import file_of, noise
from tests.waiting import until

pytestmark = pytest.mark.anyio

AS_OPERATOR = {"Authorization": f"Bearer {OPERATOR_TOKEN}"}

Cell = Callable[..., CellMark]


class Words(StoreWords):
    """In a Redis: whoever shares the list has the same one, and whoever has a copy of it another."""

    def __init__(self, known: list[str]) -> None:
        self.known = known

    async def draw(self) -> str:
        self.known.append(secrets.token_hex(16))
        return self.known[-1]

    async def knows(self, word: str) -> bool:
        return word in self.known


class Known(JobStore):
    """Of a Redis with this name."""

    def __init__(self, epoch: str, words: list[str]) -> None:
        self.name = epoch
        self.store_words = Words(words)

    async def epoch(self) -> str:
        return self.name


@pytest.fixture
def hours(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """What every clock says."""
    return [0.0]


@pytest.fixture
def cell(tmp_path: Path, hours: list[float]) -> Cell:
    """A gateway process of the cell whose Redis has this name."""

    def open_cell(
        epoch: str, name: str | None = None, *, redis_forgets: bool = False, words: list[str] | None = None
    ) -> CellMark:
        pictures = PictureStore.from_url((tmp_path / "pictures").as_uri(), signing_key=b"s" * 32)
        clocks = {"clock": lambda: hours[0], "now": lambda: 1_800_000_000.0}
        return CellMark(
            Known(epoch, [] if words is None else words), pictures, name, redis_forgets=redis_forgets, **clocks
        )

    return open_cell


async def test_the_second_cell_leaves_it_alone(cell: Cell, hours: list[float]) -> None:
    first, second = cell("a", "eu1"), cell("b", "us1")
    assert await first.look() == ""
    taken = await second.look()
    assert "belongs to another Redis (of cell eu1, since 2027-01-15T08:00:00.000Z)" in taken
    assert f"remove {CELL_MARK} there" in taken
    with pytest.raises(StoreTaken, match="cell eu1"):
        second.require()
    hours[0] += cell_mark.FRESH_SECONDS
    assert (await first.look(), await second.look()) == ("", taken), "whoever looks last"
    first.require()
    assert await cell("a").look() == "", "another process of the first, or the same restored or on another machine"


async def minutes(hours: list[float], count: int, *looking: CellMark) -> None:
    for _ in range(count):
        hours[0] += cell_mark.FRESH_SECONDS
        for each in looking:
            assert await each.look() == "", "of one name, none is kept from taking jobs"


async def removes(mark: CellMark) -> bool:
    """Whether it may remove something from the store."""
    try:
        await mark.require_known()
    except StoreUnavailable as error:
        return "another Redis that has this one's name" not in str(error)
    return True


async def test_a_copy_beside_the_original_removes_nothing(cell: Cell, hours: list[float]) -> None:
    """It has the same name, be it started in the moment of the copy or from one of long ago."""
    words = list[str]()
    original, beside = cell("a", words=words), cell("a", words=words)
    await minutes(hours, 5, original, beside)
    assert len(words) > 1
    for at in (len(words), 1):
        copied = words[:at]
        copy = cell("a", words=copied)
        await minutes(hours, 30, original, copy, beside)
        assert (await removes(original), await removes(beside), await removes(copy)) == (True, True, False)
        assert copied == words[:at], "it leaves no word that the original would meet"
    await minutes(hours, 20, copy)
    assert await removes(copy), "it is alone"
    await minutes(hours, 1, original)
    assert not await removes(original), "it has come back, and the other is there"


async def test_a_redis_of_an_older_file_removes_nothing_for_a_while(cell: Cell, hours: list[float]) -> None:
    """What the last word in the store is of, it cannot know."""
    words = list[str]()
    await minutes(hours, 9, cell("a", words=words))
    restored = cell("a", words=words[:2])
    await minutes(hours, 1, restored)
    assert not await removes(restored)
    await minutes(hours, 16, restored)
    assert await removes(restored)


async def test_a_store_that_is_full_is_not_left_so_for_want_of_a_word(
    cell: Cell, hours: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a restore: only what is removed makes room for the word."""
    words = list[str]()
    await minutes(hours, 9, cell("a", words=words))
    restored = cell("a", words=words[:2])

    async def full(word: str) -> None:
        raise StoreFull("no space")

    monkeypatch.setattr(restored._pictures, "leave_word", full)
    await minutes(hours, 1, restored)
    assert not await removes(restored)
    await minutes(hours, 16, restored)
    assert await removes(restored)


async def test_a_gateway_knows_its_own_words_though_redis_has_lost_them(cell: Cell, hours: list[float]) -> None:
    words = list[str]()
    gateway = cell("a", words=words)
    await minutes(hours, 5, gateway)
    words.clear()
    await minutes(hours, 1, gateway)
    assert await removes(gateway)


async def test_words_in_redis(redis_client: redis.Redis, valkey_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_words, "REST_SECONDS", 3_600)
    redis_client.zadd(keys.STORE_WORDS, {f"former {number:03}": number for number in range(120)})
    async with redis.asyncio.Redis.from_url(valkey_url, decode_responses=True) as client:
        words = StoreWords(client)
        word = await words.draw()
        assert await words.knows(word)
        assert not await words.knows("former 019")
        assert await words.draw() == "", "another gateway has left one a moment ago"
    assert redis_client.zcard(keys.STORE_WORDS) == 100


async def test_a_removed_mark_is_the_next_ones(cell: Cell, hours: list[float], tmp_path: Path) -> None:
    first, second = cell("a"), cell("b")
    await first.look()
    assert await second.look()
    (tmp_path / "pictures" / CELL_MARK).unlink()
    hours[0] += cell_mark.FRESH_SECONDS
    assert await second.look() == ""
    second.require()
    hours[0] += cell_mark.FRESH_SECONDS
    assert "belongs to another Redis" in await first.look(), "if it was not gone after all"


async def test_who_waits_looks_no_more_often_than_the_owner(
    cell: Cell, hours: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A mark that somebody removes by mistake would be the next one's before its owner hears of it."""
    looks = {"a": 0, "b": 0}
    cells = {name: cell(name) for name in looks}
    for name, each in cells.items():

        async def counted(read: Callable[..., Any] = each._pictures.read_mark, name: str = name) -> bytes | None:
            looks[name] += 1
            return await read()

        await each.look()
        monkeypatch.setattr(each._pictures, "read_mark", counted)
    for _ in range(3600):
        hours[0] += 1
        for each in cells.values():
            await each.look()
    assert 0 < looks["b"] <= looks["a"]


async def test_of_two_that_come_at_once_one_has_it(
    cell: Cell, hours: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = cell("a"), cell("b")
    create = second._pictures.create_mark

    async def when_the_other_has_come(data: bytes) -> bool:
        await first.look()
        return await create(data)

    monkeypatch.setattr(second._pictures, "create_mark", when_the_other_has_come)
    assert "belongs to another Redis" in await second.look()
    assert first.taken == ""


async def test_a_store_that_takes_no_mark_is_used_all_the_same(cell: Cell, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its rights may be limited to the folders of before."""
    first = cell("a")

    async def denied(*_: bytes) -> bool:
        raise StoreDenied("not below this prefix")

    monkeypatch.setattr(first._pictures, "create_mark", denied)
    assert await first.look() == ""
    await first.require_known()


async def test_nothing_is_removed_until_it_was_seen_whose_it_is(
    cell: Cell, hours: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    await cell("a").look()
    second = cell("b")

    async def away() -> bytes | None:
        raise StoreUnavailable("for a moment")

    with monkeypatch.context() as patch:
        patch.setattr(second._pictures, "read_mark", away)
        with pytest.raises(StoreUnavailable, match="could not be seen yet"):
            await second.require_known()
    second.require()
    hours[0] += cell_mark.AGAIN_SECONDS
    with pytest.raises(StoreTaken):
        await second.require_known()


async def test_a_full_store_gets_room_although_it_takes_no_mark(cell: Cell, monkeypatch: pytest.MonkeyPatch) -> None:
    first = cell("a")

    async def full(*_: bytes) -> bool:
        raise StoreFull("no space left")

    monkeypatch.setattr(first._pictures, "create_mark", full)
    await first.require_known()


async def test_a_look_that_was_overtaken_says_nothing_old(
    cell: Cell, hours: list[float], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    await cell("a").look()
    second = cell("b")
    read, held, goes_on = second._pictures.read_mark, asyncio.Event(), asyncio.Event()

    async def slow() -> bytes | None:
        found = await read()
        held.set()
        await goes_on.wait()
        return found

    monkeypatch.setattr(cell_mark, "FRESH_SECONDS", 0.0)
    with monkeypatch.context() as patch:
        patch.setattr(second._pictures, "read_mark", slow)
        old = asyncio.create_task(second.look())
        await held.wait()
    (tmp_path / "pictures" / CELL_MARK).unlink()
    new = asyncio.create_task(second.look())
    await asyncio.sleep(0)
    goes_on.set()
    assert await old
    assert await new == second.taken == ""


async def test_a_redis_that_forgets_its_name_is_kept_out_of_no_store(cell: Cell, tmp_path: Path) -> None:
    assert await cell("before it was started again", redis_forgets=True).look() == ""
    assert not (tmp_path / "pictures" / CELL_MARK).exists()
    await cell("another").look()
    assert await cell("after it was", redis_forgets=True).look() == ""


async def test_a_mark_that_is_none_is_nobodys_to_overwrite(cell: Cell, tmp_path: Path) -> None:
    first = cell("a")
    (tmp_path / "pictures" / CELL_MARK).write_bytes(b"\x89PNG")
    assert "is none" in await first.look()
    assert (tmp_path / "pictures" / CELL_MARK).read_bytes() == b"\x89PNG"


def test_a_gateway_of_a_second_cell_takes_nothing(
    gateway_with: OneGateway,
    worker: ScriptedWorker,
    redis_client: redis.Redis,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(cell_mark, "AGAIN_SECONDS", 0.05)
    monkeypatch.setattr(cell_mark, "FRESH_SECONDS", 0.05)
    worker.announce()
    mark = tmp_path / "shared" / CELL_MARK
    mark.parent.mkdir()
    with gateway_with(storage_url=mark.parent.as_uri()) as running:
        sent = running.client.post("/v1/inputs", content=file_of(noise()), headers={"Content-Type": "image/png"})
        assert sent.status_code == 201
    [kept] = [file for file in (mark.parent / "inputs").rglob("*") if file.is_file()]
    mark.write_text(json.dumps({"epoch": "of another", "cell": "eu1", "marked_at": "2026-11-27T10:00:00.000Z"}))
    with gateway_with(storage_url=mark.parent.as_uri(), cell="us1") as running:
        assert running.client.delete(f"/v1/inputs/{sent.json()['id']}").status_code == 204
        assert kept.exists(), "it may be the other's too"
        ready = running.client.get("/readyz")
        assert (ready.status_code, ready.json()["checks"]["redis"]["ok"]) == (503, True)
        assert "another Redis (of cell eu1, since 2026" in ready.json()["checks"]["storage"]["detail"]
        refused = running.client.post("/v1/jobs", json=PARAMETERS)
        assert problem(refused) == (503, "storage-unavailable")
        assert "another service's" in refused.json()["detail"]
        again = running.client.post(f"/v1/admin/jobs/job_{'0' * 24}/retry", json={}, headers=AS_OPERATOR)
        assert problem(again) == (503, "storage-unavailable"), "nor what has failed before"
        mark.unlink()
        until(lambda: running.client.get("/readyz").status_code == 200, pause=0.05)
        assert running.client.post("/v1/jobs", json=PARAMETERS).status_code == 202
    assert json.loads(mark.read_text())["epoch"] == redis_client.get(keys.EPOCH)
