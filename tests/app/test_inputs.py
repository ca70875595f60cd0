"""Pictures that come in: sent, looked at, deleted, kept for their time; and what is left when something breaks off."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import os
import pickle
import re
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import httpx2
import psutil
import pytest
import redis

from app.contract.redis import keys
from app.edge.body_queues import Space
from app.jobs import inputs
from app.jobs.inputs import CLEANED_AT_ONCE
from app.pictures import cleaners
from app.pictures.cleaners import NICENESS, SESSION, CleanerDied, Cleaners, read_answer
from app.pictures.errors import StoreUnavailable
from tests.app.conftest import OneGateway, Running
from tests.app.test_jobs import send
from tests.app.test_refusals import problem
from tests.pictures import file_of, noise, picture_in
from tests.waiting import WAIT_SECONDS, until

ANN, BOB = "a" * 32, "b" * 32


def upload(client: httpx2.Client, data: bytes | None = None, *, kind: str = "image/png") -> httpx2.Response:
    return client.post("/v1/inputs", content=data or file_of(noise()), headers={"Content-Type": kind})


def upload_beside(running: Running, data: bytes) -> httpx2.Response:
    """For a thread that sends beside others."""
    with httpx2.Client(base_url=running.url, timeout=WAIT_SECONDS, trust_env=False) as client:
        return upload(client, data)


def stored(folder: Path) -> list[Path]:
    return [file for file in (folder / "inputs").rglob("*") if file.is_file()]


def sweep(running: Running) -> int:
    """One round of what housekeeping does."""
    services = running.app.state.services
    loop = running.server.loop  # type: ignore[attr-defined]
    return int(asyncio.run_coroutine_threadsafe(services.inputs.sweep(limit=100), loop).result())


@pytest.fixture(autouse=True)
def _empty(redis_client: redis.Redis, picture_folder: Path) -> None:
    """No file of an earlier test."""
    for file in stored(picture_folder):
        file.unlink()


def test_a_picture_comes_in_and_goes(client: httpx2.Client, picture_folder: Path) -> None:
    file = file_of(noise())
    answer = upload(client, file)
    assert answer.status_code == 201
    told = answer.json()
    assert answer.headers["location"] == f"/v1/inputs/{told['id']}"
    assert (told["object"], told["width"], told["height"], told["content_type"]) == ("input", 64, 48, "image/png")
    assert client.get(answer.headers["location"]).json() == told
    assert client.get(f"/v1/inputs/{told['sha256']}").json() == told, "as a job's record names it"
    assert problem(client.get(f"/v1/inputs/{'0' * 64}")) == (404, "input-not-found")
    content = client.get(f"/v1/inputs/{told['id']}/content")
    assert (len(content.content), content.headers["content-type"]) == (told["bytes"], "image/png")
    assert picture_in(content.content).tobytes() == picture_in(file).tobytes()
    assert stored(picture_folder) == [picture_folder / "inputs" / "default" / told["sha256"]]
    assert client.delete(answer.headers["location"]).status_code == 204
    assert problem(client.get(answer.headers["location"])) == (404, "input-not-found")
    assert problem(client.delete(answer.headers["location"])) == (404, "input-not-found")
    assert stored(picture_folder) == []


def test_the_same_picture_has_the_same_id(client: httpx2.Client, redis_client: redis.Redis) -> None:
    file = file_of(noise())
    first = upload(client, file).json()
    redis_client.zadd(keys.INPUT_EXPIRY, {first["id"]: 2**40})
    again = upload(client, file)
    with_a_comment = upload(client, file_of(picture_in(file), dpi=(72, 72)))
    assert (again.status_code, with_a_comment.status_code) == (200, 200)
    assert again.json()["id"] == with_a_comment.json()["id"] == first["id"]
    assert again.json()["created_at"] == first["created_at"]
    assert again.json()["expires_at"] >= first["expires_at"], "it is kept as long as a new one"


def test_a_part_of_it_and_its_head(client: httpx2.Client) -> None:
    told = upload(client).json()
    path = f"/v1/inputs/{told['id']}/content"
    whole = client.get(path)
    part = client.get(path, headers={"Range": "bytes=1-3"})
    assert (part.status_code, part.content) == (206, b"PNG")
    assert client.head(path).headers["content-length"] == str(told["bytes"])
    assert client.get(path, headers={"If-None-Match": whole.headers["etag"]}).status_code == 304
    assert problem(client.get(path, headers={"Range": "bytes=9999999-"})) == (416, "range-not-satisfiable")


FORMS: dict[str, tuple[Any, str]] = {
    "a file of another name": ([("image", ("a.png", b"x"))], "not_one_file"),
    "two files": ([("file", ("a.png", b"x")), ("file", ("b.png", b"x"))], "not_one_file"),
    "a file that is none": ([("file", ("a.png", b"zanzibar"))], "not_a_picture"),
    "an empty file": ([("file", ("a.png", b""))], "empty"),
}


def test_a_form_with_one_file(client: httpx2.Client) -> None:
    """The name of the file, and the type that the sender guessed from it, count for nothing."""
    file = file_of(noise(), "JPEG")
    sent = client.post("/v1/inputs", files={"file": ("../../zanzibar.svg", file, "image/svg+xml")})
    assert (sent.status_code, sent.json()["content_type"]) == (201, "image/jpeg")
    assert upload(client, file, kind="image/jpeg").json()["id"] == sent.json()["id"]


@pytest.mark.parametrize("case", list(FORMS))
def test_forms_that_are_no_upload(client: httpx2.Client, case: str) -> None:
    files, code = FORMS[case]
    answer = client.post("/v1/inputs", files=files)
    assert problem(answer) == (422, "picture-unusable")
    [error] = answer.json()["errors"]
    assert (error["pointer"], error["code"]) == ("/file", code)


NAMED = b'--x\r\nContent-Disposition: form-data; name="a"\r\n\r\nb'
X = "multipart/form-data; boundary=x"


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b"zanzibar", X),
        (b"zanzibar", "multipart/form-data"),
        (NAMED, X),
        ((NAMED + b"\r\n") * 99 + b"--x--\r\n", X),
        (b"--x\r\n\r\nb\r\n--x--\r\n", X),
        (NAMED * 9_000 + b"\r\n--x--\r\n", X),
    ],
)
def test_forms_that_cannot_be_read(client: httpx2.Client, body: bytes, kind: str) -> None:
    assert problem(upload(client, body, kind=kind)) == (400, "malformed-form")


def test_no_body_is_no_picture(client: httpx2.Client) -> None:
    assert problem(client.post("/v1/inputs")) == (422, "picture-unusable")


def test_the_largest_file_is_a_setting(gateway_with: OneGateway) -> None:
    with gateway_with(input_bytes=2_000) as running:
        large = file_of(noise(256, 256))
        assert problem(upload(running.client, large)) == (413, "body-too-large")
        small_enough_with_its_form = large[:10_000]
        answer = running.client.post("/v1/inputs", files={"file": ("a.png", small_enough_with_its_form)})
        assert problem(answer) == (422, "picture-unusable")
        assert answer.json()["errors"][0]["code"] == "too_large"
        assert upload(running.client, file_of(noise(16, 16))).status_code == 201


def test_a_picture_is_its_senders(gateway_with: OneGateway, picture_folder: Path) -> None:
    with gateway_with(api_keys=f"ann:{ANN},bob:{BOB}") as running:
        ann, bob = ({"Authorization": f"Bearer {key}"} for key in (ANN, BOB))
        file, kind = file_of(noise()), {"Content-Type": "image/png"}
        hers = running.client.post("/v1/inputs", content=file, headers=ann | kind).json()
        for method, below in (("GET", ""), ("GET", "/content"), ("DELETE", "")):
            answer = running.client.request(method, f"/v1/inputs/{hers['id']}{below}", headers=bob)
            assert problem(answer) == (404, "input-not-found")
        assert problem(running.client.post("/v1/inputs", content=file, headers=kind)) == (401, "unauthenticated")
        his = running.client.post("/v1/inputs", content=file, headers=bob | kind)
        assert his.status_code == 201, "that she has it too is hers to know"
        assert his.json()["id"] != hers["id"]
        assert running.client.delete(f"/v1/inputs/{his.json()['id']}", headers=bob).status_code == 204
        assert running.client.get(f"/v1/inputs/{hers['id']}/content", headers=ann).status_code == 200
        assert [file.parent.name for file in stored(picture_folder)] == ["ann"]


def test_ones_own_are_listed(gateway_with: OneGateway) -> None:
    """By pages, the newest first. One that is sent again keeps its place."""
    with gateway_with(api_keys=f"ann:{ANN},bob:{BOB}") as running:
        ann, bob = ({"Authorization": f"Bearer {key}"} for key in (ANN, BOB))

        files = [file_of(noise(8, side)) for side in (8, 9, 10)]

        def sent(file: bytes) -> str:
            kind = {"Content-Type": "image/png"}
            answer = running.client.post("/v1/inputs", content=file, headers=ann | kind)
            return str(answer.json()["id"])

        def listed(**query: Any) -> dict[str, Any]:
            answer = running.client.get("/v1/inputs", params=query, headers=ann)
            assert answer.status_code == 200, answer.text
            return dict(answer.json())

        ids = [sent(file) for file in (*files, files[0])][:3]
        first = listed(limit=2)
        assert [each["id"] for each in first["data"]] == ids[:0:-1]
        last = listed(limit=2, cursor=first["next_cursor"])
        assert ([each["id"] for each in last["data"]], last["next_cursor"]) == (ids[:1], None)
        assert last["data"] == [running.client.get(f"/v1/inputs/{ids[0]}", headers=ann).json()]
        assert running.client.get("/v1/inputs", headers=bob).json()["data"] == []
        running.client.delete(f"/v1/inputs/{ids[1]}", headers=ann)
        assert [each["id"] for each in listed()["data"]] == [ids[2], ids[0]]
        for wrong in ({"limit": 0}, {"limit": 101}, {"cursor": "zanzibar"}, {"cursor": "MS5qb2JfMDAw"}):
            assert running.client.get("/v1/inputs", params=wrong, headers=ann).status_code == 422


@pytest.mark.parametrize("name", ["..", "in_", "in_" + "0" * 24, "in_" + "0" * 25, "job_" + "0" * 24, "%00", "x" * 900])
def test_ids_of_nothing(client: httpx2.Client, name: str) -> None:
    for below in ("", "/content"):
        answer = client.get(f"/v1/inputs/{name}{below}")
        assert problem(answer)[0] == 404


class Gate:
    """Holds pictures back when it is their turn, and counts them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.open = threading.Event()
        self.waiting, self.most = 0, 0
        self._lock = threading.Lock()
        self._run = Cleaners.run
        monkeypatch.setattr(Cleaners, "run", lambda cleaners, *asked: self._held(cleaners, *asked))

    def _held(self, cleaners: Cleaners, *asked: Any) -> Any:
        with self._lock:
            self.waiting += 1
            self.most = max(self.most, self.waiting)
        self.open.wait()
        with self._lock:
            self.waiting -= 1
        return self._run(cleaners, *asked)


def test_a_hundred_uploads_delay_nobodys_poll(
    gateway_with: OneGateway, redis_client: redis.Redis, worker: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By order: while none of them is answered, and a few are being decoded, everything else is."""
    gate = Gate(monkeypatch)
    worker.announce()
    file = file_of(noise(300, 300))
    assert len(file) > 65_536
    with gateway_with(body_seconds=3_600) as running, ThreadPoolExecutor(100) as senders:
        job = send(running.client)
        uploads = [senders.submit(upload_beside, running, file) for _ in range(100)]
        until(lambda: gate.waiting == CLEANED_AT_ONCE)
        for _ in range(20):
            assert running.client.get(job["urls"]["self"]).json()["status"] == "queued"
            assert running.client.get("/healthz").status_code == 200
        assert not any(each.done() for each in uploads)
        gate.open.set()
        assert sorted({each.result().status_code for each in uploads}) == [200, 201]
    assert gate.most == CLEANED_AT_ONCE


class TestDecoder:
    """Pictures are decoded in processes of their own, which whoever polls does not wait for."""

    @pytest.fixture
    def decoder(self, client: httpx2.Client, running: Running) -> psutil.Process:
        """The one that waits, after the first picture."""
        upload(client)
        return psutil.Process(running.app.state.services.inputs.decoders[-1])

    def test_polls_are_answered_while_it_stands_still(
        self, client: httpx2.Client, running: Running, decoder: psutil.Process
    ) -> None:
        job = send(client)
        decoder.suspend()
        with ThreadPoolExecutor(1) as sender:
            sent = sender.submit(upload_beside, running, file_of(noise(32, 32)))
            until(lambda: decoder.pid not in running.app.state.services.inputs.decoders)
            for _ in range(20):
                assert client.get(job["urls"]["self"]).json()["status"] == "queued"
            assert not sent.done()
            decoder.resume()
            assert sent.result().status_code == 201

    def test_it_gives_way_to_others_and_has_no_keys(self, decoder: psutil.Process) -> None:
        assert decoder.nice() > psutil.Process().nice()
        assert not [name for name in decoder.environ() if name.startswith(("DARKROOM_", "AWS_", "REDIS_"))]

    @pytest.mark.skipif(not SESSION.exists(), reason="sessions are not scheduled as groups here")
    def test_its_session_gives_way_too(self, decoder: psutil.Process) -> None:
        """Linux may count niceness within a session only: two gateways would not give way to each other's polls."""
        assert os.getsid(decoder.pid) == decoder.pid
        assert Path(str(SESSION).replace("self", str(decoder.pid))).read_text().endswith(f"nice {NICENESS}\n")

    def test_one_that_dies_takes_one_picture_with_it(
        self, client: httpx2.Client, running: Running, decoder: psutil.Process, picture_folder: Path
    ) -> None:
        decoder.suspend()
        with ThreadPoolExecutor(1) as sender:
            sent = sender.submit(upload_beside, running, file_of(noise(32, 32)))
            until(lambda: decoder.pid not in running.app.state.services.inputs.decoders)
            decoder.kill()
            answer = sent.result()
        assert problem(answer) == (503, "unavailable")
        assert int(answer.headers["retry-after"]) > 0
        assert len(stored(picture_folder)) == 1
        assert upload(client, file_of(noise(32, 32))).status_code == 201

    def test_one_that_never_answers_is_ended(
        self, client: httpx2.Client, decoder: psutil.Process, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(cleaners, "LONGEST_SECONDS", 0.1)
        decoder.suspend()
        assert problem(upload(client, file_of(noise(32, 32)))) == (503, "unavailable")
        assert not decoder.is_running()
        monkeypatch.undo()
        assert upload(client, file_of(noise(32, 32))).status_code == 201

    def test_nothing_that_it_says_is_run_or_names_an_object(self) -> None:
        """It may have been taken over by the picture that it decoded."""
        said = {"content_type": "image/png", "width": 1, "height": 1, "sha256": "../../other"}
        assert read_answer(json.dumps(said).encode(), b"x").sha256 == hashlib.sha256(b"x").hexdigest()
        for wrong in (pickle.dumps(said), json.dumps(said | {"content_type": "text/html"}).encode()):
            with pytest.raises(CleanerDied):
                read_answer(wrong, b"x")

    def test_one_that_died_unused_is_nobodys_fault(self, client: httpx2.Client, decoder: psutil.Process) -> None:
        decoder.kill()
        decoder.wait(WAIT_SECONDS)
        assert upload(client, file_of(noise(32, 32))).status_code == 201

    def test_it_ends_with_its_gateway(self, gateway_with: OneGateway) -> None:
        with gateway_with() as running:
            upload(running.client)
            decoder = psutil.Process(running.app.state.services.inputs.decoders[-1])
        assert not decoder.is_running()


async def an_hour_later(space: Space, amount: int, *, seconds: float, take: Any = Space.take) -> int:
    """In the place of Space.take, where nothing is given back in an hour."""
    assert seconds == 3_600
    return int(await take(space, amount, seconds=0))


def test_more_than_there_is_space_for_is_refused(gateway_with: OneGateway, monkeypatch: pytest.MonkeyPatch) -> None:
    """The one that is too many waits as long as a body may take, and nothing of it is kept."""
    monkeypatch.setattr("app.edge.bodies.SPACE", 150_000)
    gate = Gate(monkeypatch)
    file = file_of(noise(300, 300))
    with gateway_with(body_seconds=3_600) as running, ThreadPoolExecutor(1) as sender:
        first = sender.submit(upload_beside, running, file)
        until(lambda: gate.waiting)
        with monkeypatch.context() as patch:
            patch.setattr(Space, "take", an_hour_later)
            refused = upload(running.client, file)
        small = sender.submit(running.client.get, "/v1/jobs")
        gate.open.set()
        assert first.result().status_code == 201
        assert small.result().status_code == 200
        assert problem(refused) == (503, "too-many-uploads")
        assert int(refused.headers["retry-after"]) > 0
        assert upload(running.client, file).status_code == 200


def test_a_tenant_has_only_so_much_room(gateway_with: OneGateway, worker: Any, picture_folder: Path) -> None:
    """However many come at once. What to do is said, and what is refused leaves nothing."""
    files = [file_of(noise(32, 32)) for _ in range(24)]
    worker.announce()
    with gateway_with() as running:
        size = upload(running.client, files[0]).json()["bytes"]
        assert running.client.get("/v1/usage").json()["inputs"] == {"bytes": size, "most_bytes": 10 * 2**30}
    with gateway_with(tenant_input_bytes=4 * size + size // 2) as running, ThreadPoolExecutor(24) as senders:
        answers = list(senders.map(partial(upload_beside, running), files))
        assert Counter(each.status_code for each in answers) == {200: 1, 201: 3, 403: 20}
        refused = next(each for each in answers if each.status_code == 403)
        assert problem(refused) == (403, "too-many-inputs")
        assert re.search(r"this one \d+, and they may take", refused.json()["detail"])
        assert "delete some, which GET /v1/inputs lists" in refused.json()["detail"]
        own = {"prompt": "a red circle", "image": {"b64": base64.b64encode(file_of(noise(32, 33))).decode()}}
        worker.card = worker.card.model_copy(update={"takes": ("image", "strength"), "tasks": ("image-to-image",)})
        worker.announce()
        until(lambda: "image" in running.client.get("/v1/models").json()["data"][0]["takes"])
        assert problem(running.client.post("/v1/jobs", json=own)) == (403, "too-many-inputs")
        sweep(running)
        assert len(stored(picture_folder)) == 4
        held = running.client.get("/v1/usage").json()["inputs"]
        assert held["bytes"] == sum(file.stat().st_size for file in stored(picture_folder))
        kept = next(each.json() for each in answers if each.status_code == 201)
        running.client.delete(f"/v1/inputs/{kept['id']}").raise_for_status()
        assert upload(running.client, file_of(noise(32, 32))).status_code == 201
        alone = upload(running.client, file_of(noise(128, 128)))
        assert problem(alone) == (403, "too-many-inputs")
        assert f"{4 * size + size // 2} together" in alone.json()["detail"]
        assert "delete" not in alone.json()["detail"], "no room that is made would do"


def test_what_is_kept_no_longer_goes(
    client: httpx2.Client, running: Running, redis_client: redis.Redis, picture_folder: Path
) -> None:
    old, kept = upload(client).json(), upload(client).json()
    redis_client.zadd(keys.INPUT_EXPIRY, {old["id"]: 1})
    sweep(running)
    assert problem(client.get(f"/v1/inputs/{old['id']}")) == (404, "input-not-found")
    assert client.get(f"/v1/inputs/{kept['id']}/content").status_code == 200
    assert [file.name for file in stored(picture_folder)] == [kept["sha256"]]
    left = [key for key in redis_client.keys("darkroom:input*") if old["id"] in key]
    assert left == []


class TestBrokenOff:
    """Something is away in the middle: the caller hears 503, sends it again, and nothing half-made stays for ever."""

    @pytest.fixture(params=["begin", "add"])
    def step(self, request: pytest.FixtureRequest) -> str:
        return str(request.param)

    def test_redis_goes_away(
        self,
        client: httpx2.Client,
        running: Running,
        redis_client: redis.Redis,
        picture_folder: Path,
        monkeypatch: pytest.MonkeyPatch,
        step: str,
    ) -> None:
        file = file_of(noise())

        async def away(*_: object, **__: object) -> None:
            raise redis.ConnectionError("away")

        with monkeypatch.context() as patch:
            patch.setattr(running.app.state.services.inputs._store, step, away)
            assert problem(upload(client, file)) == (503, "queue-unavailable")
        assert redis_client.keys("darkroom:input:*") == []
        assert len(stored(picture_folder)) == (step == "add")
        self.time_passes(redis_client)
        sweep(running)
        assert stored(picture_folder) == []
        assert redis_client.zcard(keys.INPUT_ORPHANS) == 0
        assert upload(client, file).status_code == 201

    def test_the_store_goes_away(
        self,
        client: httpx2.Client,
        running: Running,
        redis_client: redis.Redis,
        picture_folder: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        file = file_of(noise())

        async def away(*_: object) -> None:
            raise StoreUnavailable("away")

        with monkeypatch.context() as patch:
            patch.setattr(running.app.state.services.pictures, "put_input", away)
            assert problem(upload(client, file)) == (503, "storage-unavailable")
        assert redis_client.keys("darkroom:input:*") == []
        assert upload(client, file).status_code == 201
        self.time_passes(redis_client)
        sweep(running)
        assert len(stored(picture_folder)) == 1, "what has a record by then stays"

    def test_a_file_that_cannot_go_goes_later(
        self,
        client: httpx2.Client,
        running: Running,
        redis_client: redis.Redis,
        picture_folder: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        told = upload(client).json()

        async def away(*_: object) -> None:
            raise StoreUnavailable("away")

        with monkeypatch.context() as patch:
            patch.setattr(running.app.state.services.pictures, "delete_input", away)
            assert client.delete(f"/v1/inputs/{told['id']}").status_code == 204
        assert problem(client.get(f"/v1/inputs/{told['id']}")) == (404, "input-not-found")
        assert len(stored(picture_folder)) == 1
        sweep(running)
        assert stored(picture_folder) == []

    def test_what_a_killed_writer_left_goes_with_the_file(
        self, client: httpx2.Client, running: Running, redis_client: redis.Redis, picture_folder: Path
    ) -> None:
        told = upload(client).json()
        half = picture_folder / "inputs" / "default" / f".{told['sha256']}.0123456789abcdef.tmp"
        half.write_bytes(b"half")
        assert client.delete(f"/v1/inputs/{told['id']}").status_code == 204
        assert stored(picture_folder) == []

    def test_a_picture_that_is_being_removed_is_not_stored_in_between(
        self, client: httpx2.Client, running: Running, redis_client: redis.Redis, picture_folder: Path
    ) -> None:
        """The file of the new one would go with the old one's, and leave a record without any."""
        file = file_of(noise())
        told = upload(client, file).json()
        name = f"{told['id']}/default/{told['sha256']}"
        redis_client.delete(keys.INPUT + told["id"])
        redis_client.set(keys.INPUT_REMOVAL + name, "")
        with ThreadPoolExecutor(1) as sender:
            again = sender.submit(upload_beside, running, file)
            until(lambda: redis_client.exists(keys.INPUT_REMOVAL + name))
            stored(picture_folder)[0].unlink()
            redis_client.delete(keys.INPUT_REMOVAL + name)
            assert again.result().status_code == 201
        assert client.get(f"/v1/inputs/{told['id']}/content").status_code == 200

    def test_who_waits_for_a_removal_keeps_nobody_from_storing(
        self, client: httpx2.Client, running: Running, redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A gateway that was killed in between leaves one that lasts for minutes."""
        store, file, asked = running.app.state.services.inputs._store, file_of(noise()), set[Any]()
        begin, told = store.begin, upload(client, file).json()
        assert client.delete(f"/v1/inputs/{told['id']}").status_code == 204
        removal = keys.INPUT_REMOVAL + f"{told['id']}/default/{told['sha256']}"
        redis_client.set(removal, "somebody's")

        async def noted(*upload: Any, **size: int) -> Any:
            asked.add(asyncio.current_task())
            return await begin(*upload, **size)

        monkeypatch.setattr(store, "begin", noted)
        monkeypatch.setattr(inputs, "REMOVAL_SECONDS", 3_600.0)
        with ThreadPoolExecutor(inputs.STORED_AT_ONCE) as senders:
            waiting = [senders.submit(upload_beside, running, file) for _ in range(inputs.STORED_AT_ONCE)]
            try:
                until(lambda: len(asked) == len(waiting))
                assert upload(client, file_of(noise())).status_code == 201
            finally:
                redis_client.delete(removal)
            assert {each.result().status_code for each in waiting} == {200, 201}

    def test_a_picture_that_is_being_stored_is_not_removed(
        self, client: httpx2.Client, running: Running, redis_client: redis.Redis, picture_folder: Path
    ) -> None:
        told = upload(client).json()
        name = f"{told['id']}/default/{told['sha256']}"
        redis_client.zadd(keys.INPUT_UPLOADS + name, {"somebody": 2**45})
        assert client.delete(f"/v1/inputs/{told['id']}").status_code == 204
        sweep(running)
        assert len(stored(picture_folder)) == 1
        redis_client.delete(keys.INPUT_UPLOADS + name)
        self.time_passes(redis_client)
        sweep(running)
        assert stored(picture_folder) == []

    def test_a_picture_that_was_deleted_before_redis_was_asked_again_is_stored_again(
        self, client: httpx2.Client, running: Running, picture_folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Its record was made, the answer was lost, and another client has deleted what it found in the list."""
        inputs = running.app.state.services.inputs
        add = inputs._store.add

        async def asked_again(*upload: Any, **limits: int) -> Any:
            monkeypatch.setattr(inputs._store, "add", add)
            picture, is_new = await add(*upload, **limits)
            assert is_new
            await inputs.remove(picture)
            assert stored(picture_folder) == []
            return await add(*upload, **limits)

        monkeypatch.setattr(inputs._store, "add", asked_again)
        told = upload(client).json()
        assert client.get(f"/v1/inputs/{told['id']}/content").status_code == 200

    @staticmethod
    def time_passes(redis_client: redis.Redis) -> None:
        """Every object that may be nobody's is looked at now, and whoever was storing one has given up."""
        for name in redis_client.zrange(keys.INPUT_ORPHANS, 0, -1):
            redis_client.zadd(keys.INPUT_ORPHANS, {name: 1})
            redis_client.delete(keys.INPUT_UPLOADS + name)
