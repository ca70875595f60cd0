"""Keys that operators hand out: made, used, limited and revoked, against a real gateway and the real command."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import httpx2
import pytest
import redis
import redis.asyncio

from app.contract.redis import keys as names
from app.edge.keyring import Keyring, _checksum, key_id_of, new_key
from app.settings import Settings
from tests.app.command import darkroom
from tests.app.conftest import OPERATOR, OneGateway, Running, ScriptedWorker
from tests.app.test_guard import KEY
from tests.app.test_jobs import PARAMETERS
from tests.app.test_refusals import problem
from tests.waiting import WAIT_SECONDS, until

Keys = Callable[..., subprocess.CompletedProcess[str]]
Made = Callable[..., dict[str, str]]

COMMAND = Path(sys.executable).with_name("darkroom")


@pytest.fixture
def keys(settings: Settings) -> Keys:
    """`darkroom keys` beside the gateway."""
    return partial(darkroom, "keys", redis_url=settings.redis_url.get_secret_value())


@pytest.fixture
def keys_as_processes(settings: Settings) -> Keys:
    """The same as an operator runs it."""

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        environment = {"REDIS_URL": settings.redis_url.get_secret_value(), "PATH": "/usr/bin"}
        return subprocess.run([COMMAND, "keys", *arguments], capture_output=True, text=True, env=environment)

    return run


@pytest.fixture
def made(settings: Settings) -> Made:
    """Headers with a new key: what `darkroom keys create` does, without starting an interpreter."""

    async def create(tenant: str, **options: Any) -> str:
        url = settings.redis_url.get_secret_value()
        async with redis.asyncio.Redis.from_url(url, decode_responses=True) as client:
            return (await Keyring(client).create(tenant, **options))[0]

    return lambda tenant, **options: {"Authorization": f"Bearer {asyncio.run(create(tenant, **options))}"}


@pytest.fixture
def locked(gateway_with: OneGateway, worker: ScriptedWorker) -> Iterator[Running]:
    """A gateway that answers to keys only."""
    worker.announce()
    with gateway_with(require_keys=True) as running:
        yield running


def test_a_key_from_its_making_to_its_end(locked: Running, keys_as_processes: Keys, redis_client: redis.Redis) -> None:
    keys = keys_as_processes
    assert problem(locked.client.get("/v1/jobs")) == (401, "unauthenticated")
    done = keys("create", "ann", "--name", "a note")
    key = done.stdout.strip()
    key_id = key_id_of(key)
    assert key_id is not None
    assert len(key) == len("drk_") + 10 + 1 + 32 + 6
    assert "not shown again" in done.stderr
    ann = {"Authorization": f"Bearer {key}"}
    job = locked.client.post("/v1/jobs", json=PARAMETERS, headers=ann)
    assert job.status_code == 202
    [info] = json.loads(keys("list", "--json").stdout)["data"]
    assert (info["id"], info["tenant"], info["name"], info["scopes"]) == (key_id, "ann", "a note", ["read", "write"])
    assert key not in str(redis_client.hgetall(names.API_KEYS))

    assert keys("revoke", key_id).returncode == 0
    until(lambda: locked.client.get("/v1/jobs", headers=ann).status_code == 401)


def test_a_key_is_revoked_by_what_only_it_is_called(keys: Keys, made: Made) -> None:
    ids = [key_id_of(made("ann", name=name)["Authorization"].removeprefix("Bearer ")) for name in ("laptop", "phone")]
    both = keys("revoke", "ann")
    assert (both.returncode, both.stdout) == (2, "")
    assert all(
        f"{key_id} (of ann, {name})" in both.stderr for key_id, name in zip(ids, ("laptop", "phone"), strict=True)
    )
    assert keys("revoke", "phone").stdout == f"key {ids[1]} is revoked\n"
    last = keys("revoke", "ann")
    assert (last.stdout, "it was the last" in last.stderr) == (f"key {ids[0]} is revoked\n", True)
    assert keys("list").stderr.startswith("no keys; one is needed all the same")


def test_revoking_ends_what_is_open(locked: Running, keys: Keys, made: Made) -> None:
    ann, other = made("ann"), made("ann")
    key_id = key_id_of(ann["Authorization"].removeprefix("Bearer ")) or ""
    job = locked.client.post("/v1/jobs", json=PARAMETERS, headers=ann).json()
    with ThreadPoolExecutor() as pool:
        stream = pool.submit(locked.client.get, job["urls"]["events"], headers=ann)
        wait = pool.submit(locked.client.get, job["urls"]["self"], headers=ann, params={"wait": 60})
        others = pool.submit(locked.client.get, job["urls"]["self"], headers=other, params={"wait": 60})
        feed = locked.app.state.services.feed
        until(lambda: feed.listeners == 3)
        keys("revoke", key_id)
        assert stream.result(WAIT_SECONDS).text.startswith("event: job")
        assert problem(wait.result(WAIT_SECONDS)) == (401, "unauthenticated")
        assert not others.done()
        assert locked.client.post(job["urls"]["cancel"], headers=other).status_code == 200
        assert others.result(WAIT_SECONDS).json()["status"] == "canceled"


def test_the_first_key_closes_an_open_service(client: httpx2.Client, running: Running, made: Made) -> None:
    assert client.get("/v1/jobs").status_code == 200
    ann = made("ann")
    until(lambda: client.get("/v1/jobs").status_code == 401)
    assert client.get("/v1/jobs", headers=ann).status_code == 200


def revoke_all(settings: Settings) -> None:
    """What `darkroom keys revoke` does, for every key."""

    async def work() -> None:
        async with redis.asyncio.Redis.from_url(settings.redis_url.get_secret_value(), decode_responses=True) as client:
            keyring = Keyring(client)
            for info in await keyring.all():
                assert await keyring.revoke(info.id)

    asyncio.run(work())


def test_the_last_key_revoked_lets_nobody_in(
    client: httpx2.Client, running: Running, settings: Settings, made: Made, gateway_with: OneGateway
) -> None:
    """Neither the one who held it nor anybody else, whether the gateway saw it or starts afterwards."""
    ann, nobody = made("ann"), {}
    until(lambda: client.get("/v1/jobs").status_code == 401)
    job = client.post("/v1/jobs", json=PARAMETERS, headers=ann).json()
    with ThreadPoolExecutor() as pool:
        stream = pool.submit(client.get, job["urls"]["events"], headers=ann)
        until(lambda: running.app.state.services.feed.listeners == 1)
        revoke_all(settings)
        assert "job.succeeded" not in stream.result(WAIT_SECONDS).text
    with gateway_with() as later:
        for gateway in (running, later):
            for headers in (ann, nobody, {"Authorization": "Bearer anything"}):
                assert problem(gateway.client.get("/v1/jobs", headers=headers)) == (401, "unauthenticated")


def test_opening_again_is_a_command(client: httpx2.Client, keys: Keys, settings: Settings, made: Made) -> None:
    ann = made("ann")
    until(lambda: client.get("/v1/jobs").status_code == 401)
    refused = keys("open", "--yes")
    assert (refused.returncode, "there are keys" in refused.stderr) == (2, True)
    revoke_all(settings)
    assert keys("open").returncode == 1, "nobody said yes"
    assert client.get("/v1/jobs").status_code == 401
    assert keys("open", "--yes").returncode == 0
    until(lambda: client.get("/v1/jobs").status_code == 200)
    assert problem(client.get("/v1/jobs", headers=ann)) == (401, "unauthenticated")
    made("bob")
    until(lambda: client.get("/v1/jobs").status_code == 401)


def test_the_first_key_ends_what_is_open_without_one(client: httpx2.Client, running: Running, made: Made) -> None:
    job = client.post("/v1/jobs", json=PARAMETERS).json()
    with ThreadPoolExecutor() as pool:
        stream = pool.submit(client.get, job["urls"]["events"])
        wait = pool.submit(client.get, job["urls"]["self"], params={"wait": 60})
        until(lambda: running.app.state.services.feed.listeners == 2)
        made("ann")
        assert stream.result(WAIT_SECONDS).text.startswith("event: job")
        assert problem(wait.result(WAIT_SECONDS)) == (401, "unauthenticated")


@pytest.mark.parametrize("key", [new_key()[1], "drk_", "drk_mistyped"], ids=["forged", "empty", "mistyped"])
def test_a_key_of_ours_that_is_unknown_is_refused_by_an_open_service_too(client: httpx2.Client, key: str) -> None:
    assert client.get("/v1/jobs", headers={"Authorization": "Bearer sk-of-another-service"}).status_code == 200
    answer = client.get("/v1/jobs", headers={"Authorization": f"Bearer {key}"})
    assert problem(answer) == (401, "unauthenticated")


def test_a_redis_that_forgot_its_keys_opens_nothing_and_denies_none(
    client: httpx2.Client, running: Running, redis_client: redis.Redis, made: Made
) -> None:
    """Clients stop at a 401, and come back after a 503."""
    ann = made("ann")
    until(lambda: client.get("/v1/jobs").status_code == 401)
    assert client.get("/v1/jobs", headers=ann).status_code == 200
    redis_client.flushall()
    until(lambda: problem(client.get("/v1/jobs")) == (503, "queue-unavailable"))
    at_the_door = client.get("/v1/jobs", headers=ann)
    assert problem(at_the_door) == (503, "queue-unavailable")
    assert "has lost what it knew" in at_the_door.json()["detail"]
    redis_client.set(names.API_KEYS_VERSION, running.app.state.services.keyring._version)
    behind_it = client.get("/v1/jobs", headers=ann).json()
    assert behind_it["detail"] == at_the_door.json()["detail"]
    redis_client.delete(names.API_KEYS_VERSION)
    running.app.state.services.keyring.begin_anew()
    assert problem(client.get("/v1/jobs", headers=ann)) == (401, "unauthenticated"), "as after a restart"


def test_revoking_what_is_not_there_closes_nothing(keys: Keys, redis_client: redis.Redis) -> None:
    assert keys("revoke", "0123456789").returncode == 2
    assert redis_client.get(names.API_KEYS_VERSION) is None


def test_a_revocation_whose_reply_was_lost_is_done(keys: Keys, settings: Settings, made: Made) -> None:
    """redis-py sends the change once more; the second one finds nothing, and the answer is still yes."""

    async def work() -> bool:
        async with redis.asyncio.Redis.from_url(settings.redis_url.get_secret_value(), decode_responses=True) as client:
            keyring = Keyring(client)
            [info] = await keyring.all()
            execute = redis.asyncio.client.Pipeline.execute

            async def twice(pipeline: Any, **options: Any) -> Any:
                commands = list(pipeline.command_stack)
                await execute(pipeline, **options)
                pipeline.command_stack = commands
                return await execute(pipeline, **options)

            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(redis.asyncio.client.Pipeline, "execute", twice)
                return await keyring.revoke(info.id)

    made("ann")
    assert asyncio.run(work())
    assert json.loads(keys("list", "--json").stdout)["data"] == []


def test_configured_keys_go_on_beside_them(gateway_with: OneGateway, made: Made) -> None:
    with gateway_with(api_keys=f"boot:{KEY}") as running:
        ann = made("ann")
        assert running.client.get("/v1/jobs", headers=ann).status_code == 200
        assert running.client.get("/v1/jobs", headers={"Authorization": f"Bearer {KEY}"}).status_code == 200


@pytest.mark.parametrize(
    ("scope", "allowed", "refused"), [("read", "GET", "POST"), ("write", "POST", "GET")], ids=["read", "write"]
)
def test_scopes(locked: Running, made: Made, scope: str, allowed: str, refused: str) -> None:
    headers = made("ann", scopes=(scope,))
    for method in ("GET", "POST"):
        answer = locked.client.request(
            method, "/v1/jobs", headers=headers, json=PARAMETERS if method == "POST" else None
        )
        if method == refused:
            assert problem(answer) == (403, "forbidden")
        else:
            assert answer.is_success


def test_what_a_key_may_do(locked: Running, made: Made) -> None:
    ann = locked.client.get("/v1/key", headers=made("ann", scopes=("read",), jobs=3)).json()
    assert (ann["tenant"], ann["scopes"], ann["jobs"], ann["requests_per_minute"]) == ("ann", ["read"], 3, None)
    ops = locked.client.get("/v1/key", headers=made("ops", admin=True)).json()
    assert ops["scopes"] == ["admin", "read", "write"]
    assert problem(locked.client.get("/v1/key")) == (401, "unauthenticated")


def test_without_keys_the_operator_has_a_token(client: httpx2.Client) -> None:
    everybody = client.get("/v1/key").json()
    assert everybody["scopes"] == ["read", "write"]
    assert client.get("/v1/key", headers=OPERATOR).json()["scopes"] == ["admin", "read", "write"]


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["create", "ann", "--scope", "owner"], 2, "--scope"),
        (["create", "No Such Tenant"], 2, "tenant"),
        (["revoke", "0123456789"], 2, "no such key"),
        (["list"], 0, "no keys; no key is needed on this machine"),
    ],
)
def test_what_the_command_says(keys: Keys, arguments: list[str], code: int, said: str) -> None:
    done = keys(*arguments)
    assert (done.returncode, said in done.stderr, "Traceback" in done.stderr) == (code, True, False)


def test_requests_a_minute(locked: Running, made: Made) -> None:
    ann, bob = made("ann", requests_per_minute=3), made("bob")
    left = []
    for _ in range(3):
        answer = locked.client.get("/v1/jobs", headers=ann)
        assert answer.headers["ratelimit-policy"] == '"requests";q=3;w=60'
        left.append(answer.headers["ratelimit"].split(";")[1])
    assert left == ["r=2", "r=1", "r=0"]
    refused = locked.client.get("/v1/jobs", headers=ann)
    assert problem(refused) == (429, "rate-limited")
    most = names.LIMIT_WINDOW_MS / 1000 * 4 / 3
    assert 1 <= int(refused.headers["retry-after"]) <= most, "the first fits again when two thirds are forgotten"
    assert refused.headers["ratelimit"].startswith('"requests";r=0;t=')
    answer = locked.client.get("/v1/jobs", headers=bob)
    assert (answer.status_code, "ratelimit" in answer.headers) == (200, False)


def test_cost_a_minute(locked: Running, made: Made) -> None:
    """128 x 128 pixels, 64 steps and two passes are two megapixel steps."""
    ann = made("ann", cost_per_minute=5)
    parameters = {**PARAMETERS, "num_inference_steps": 64}
    for _ in range(2):
        assert locked.client.post("/v1/jobs", json=parameters, headers=ann).status_code == 202
    refused = locked.client.post("/v1/jobs", json=parameters, headers=ann)
    assert problem(refused) == (429, "rate-limited")
    assert "costs 2 megapixel steps" in refused.json()["detail"]
    assert refused.headers["ratelimit"].startswith('"cost";r=1;t=')
    assert locked.client.post("/v1/jobs", json={**PARAMETERS, "num_inference_steps": 1}, headers=ann).status_code == 202


def test_guidance_costs_nothing_where_the_model_takes_one_row(
    locked: Running, made: Made, worker: ScriptedWorker
) -> None:
    one_row = {"name": "one-row", "classifier_free_guidance": False}
    worker.ownership.announce(worker.card.model_copy(update=one_row), "w2")
    ann, job = made("ann", cost_per_minute=1), {**PARAMETERS, "model": "one-row", "num_inference_steps": 64}
    assert locked.client.post("/v1/jobs", json=job, headers=ann).status_code == 202
    refused = locked.client.post("/v1/jobs", json=job, headers=ann)
    assert problem(refused) == (429, "rate-limited")
    assert "costs 1 megapixel steps" in refused.json()["detail"]


def test_a_minute_that_is_used_up(locked: Running, made: Made) -> None:
    """The job has used up its key's minute; said again, it is not charged again, nor refused."""
    ann, again_and_again = made("ann", cost_per_minute=3), {"Idempotency-Key": "the same"}
    parameters = {**PARAMETERS, "num_inference_steps": 64}
    first, again = (locked.client.post("/v1/jobs", json=parameters, headers=ann | again_and_again) for _ in range(2))
    assert (first.status_code, again.status_code) == (202, 202)
    assert first.json()["id"] == again.json()["id"]
    refused = locked.client.post("/v1/jobs", json=parameters, headers=ann)
    assert problem(refused) == (429, "rate-limited")
    assert refused.headers["ratelimit"].startswith('"cost";r=1;t=')


@pytest.mark.parametrize(("allowed", "expected"), [(1, (422, "invalid-request")), (2, None)])
def test_a_job_that_no_minute_pays_for(
    locked: Running,
    made: Made,
    allowed: int,
    expected: tuple[int, str] | None,
) -> None:
    """It can never come in: no Retry-After would be true."""
    ann = made("ann", cost_per_minute=allowed)
    answer = locked.client.post("/v1/jobs", json={**PARAMETERS, "num_inference_steps": 64}, headers=ann)
    if expected is None:
        assert answer.status_code == 202
        return
    assert problem(answer) == expected
    assert "retry-after" not in answer.headers
    [error] = answer.json()["errors"]
    assert error["code"] == "too_much_work"
    assert "costs 2 megapixel steps, and this key has 1 a minute" in error["detail"]


def test_the_same_in_the_dialects(locked: Running, made: Made) -> None:
    ann = made("ann", cost_per_minute=1)
    asked = {"prompt": "a red circle", "num_inference_steps": 64}
    refused = locked.client.post("/v1/images/generations", json=asked, headers=ann)
    assert (refused.status_code, refused.json()["error"]["type"]) == (400, "invalid_request_error")
    refused = locked.client.post("/v1/models/darkroom/starter/predictions", json={"input": asked}, headers=ann)
    assert refused.status_code == 422


def test_unfinished_jobs(locked: Running, made: Made, worker: ScriptedWorker) -> None:
    ann = made("ann", jobs=1)
    assert locked.client.post("/v1/jobs", json=PARAMETERS, headers=ann).status_code == 202
    assert problem(locked.client.post("/v1/jobs", json=PARAMETERS, headers=ann)) == (429, "too-many-jobs")
    worker.succeed(worker.claim())
    assert locked.client.post("/v1/jobs", json=PARAMETERS, headers=ann).status_code == 202


def test_limits_hold_for_all_gateways_together(locked: Running, gateway_with: OneGateway, made: Made) -> None:
    ann = made("ann", requests_per_minute=2)
    with gateway_with(require_keys=True) as other:
        codes = [gateway.client.get("/v1/jobs", headers=ann).status_code for gateway in (locked, other, locked)]
    assert codes == [200, 200, 429]


@pytest.mark.parametrize("place", [0, 5, 20, -1])
def test_a_mistyped_key_is_known_by_its_checksum(place: int) -> None:
    key_id, key = new_key()
    assert key_id_of(key) == key_id
    wrong = [*key]
    wrong[place] = "0" if wrong[place] != "0" else "1"
    assert key_id_of("".join(wrong)) is None


def test_a_forged_key_with_a_known_id_is_refused(locked: Running, keys: Keys, made: Made) -> None:
    """Somebody who has seen the list knows ids, and can compute a checksum."""
    made("ann")
    [info] = json.loads(keys("list", "--json").stdout)["data"]
    body = f"drk_{info['id']}_{'0' * 32}"
    answer = locked.client.get("/v1/jobs", headers={"Authorization": f"Bearer {body}{_checksum(body)}"})
    assert problem(answer) == (401, "unauthenticated")


def test_keys_without_a_service(tmp_path: Path) -> None:
    done = subprocess.run(
        [COMMAND, "keys", "list", "--data", str(tmp_path)],
        capture_output=True, text=True, env={"REDIS_URL": "redis://127.0.0.1:1/0", "PATH": "/usr/bin"},
    )  # fmt: skip
    assert (done.returncode, "does not answer" in done.stderr, "Traceback" in done.stderr) == (3, True, False)


SECRET = {("get", "/v1/webhooks/default/secret")}
"""Operations that answer with a secret."""

READING = {("post", "/v1/jobs/{job_id}/events/token")}
"""Operations that allow no more than a GET does."""


@pytest.mark.parametrize("scopes", [("read",), ("write",), ("read", "write")], ids=" ".join)
def test_every_route_with_every_scope(
    locked: Running, made: Made, worker: ScriptedWorker, settings: Settings, scopes: tuple[str, ...]
) -> None:
    """Generated from the OpenAPI: a key does what its scopes say, and one that may only look learns no secret."""
    full, some = made("ann"), made("ann", scopes=scopes)
    parameters = {**PARAMETERS, "webhook": {"url": "https://hooks.example.org/canary-path"}}
    job = locked.client.post("/v1/jobs", json=parameters, headers=full).json()
    worker.succeed(worker.claim())
    secret = locked.client.get("/v1/webhooks/default/secret", headers=full).json()["key"]
    tried = set()
    for path, operations in locked.client.get("/openapi.json").json()["paths"].items():
        for method, operation in operations.items():
            if operation.get("security") == []:
                continue
            reads = method in ("get", "head", "options") or (method, path) in READING
            needed = {"read"} if reads else {"write"}
            needed |= {"read", "write"} if (method, path) in SECRET else set()
            needed |= {"admin"} if path.startswith("/v1/admin/") else set()
            answer = locked.client.request(method.upper(), filled(path, job["id"]), headers=some)
            refused = answer.status_code == 403
            assert refused is (not needed <= set(scopes)), (method, path)
            assert (method, path) in SECRET or secret not in answer.text, (method, path)
            assert full["Authorization"].removeprefix("Bearer ") not in answer.text
            tried.add((method, path))
    assert tried >= SECRET
    assert len(tried) >= 20


def filled(path: str, job_id: str) -> str:
    """A path with the parameters that a request to it would have."""
    values = {
        "model_id": "starter",
        "job_id": job_id,
        "input_id": "in_" + "0" * 24,
        "file_id": "in_" + "0" * 24,
        "prediction_id": job_id,
        "index": "0",
        "event": "job.succeeded",
        "owner": "darkroom",
        "kind": "webp",
        "model": "starter",
        "tenant": "ann",
        "worker": "w1",
    }
    for name, value in (values | {"name": "starter", "version": "0" * 64, "sha256": "0" * 64}).items():
        path = path.replace(f"{{{name}}}", value)
    assert "{" not in path, f"{path} has a parameter this test does not know"
    return path


def test_two_tenants_on_every_route_with_an_id(
    locked: Running, made: Made, worker: ScriptedWorker, redis_client: redis.Redis
) -> None:
    """Generated from the OpenAPI: whatever takes an id of a job answers a stranger as if there were none."""
    ann, bob = made("ann"), made("bob")
    job = locked.client.post("/v1/jobs", json=PARAMETERS, headers=ann).json()
    worker.succeed(worker.claim())
    before: Any = redis_client.hgetall(f"{names.JOB}{job['id']}")
    tried = 0
    for path, operations in locked.client.get("/openapi.json").json()["paths"].items():
        if path == "/v1/jobs/events":
            path = "/v1/jobs/events?id={job_id}"
        # An operator's routes are shut as a whole: test_admin_access.py.
        is_of_a_job = any(f"{{{name}}}" in path for name in ("job_id", "prediction_id"))
        if not is_of_a_job or path.startswith("/v1/admin/"):
            continue
        for method in operations:
            answer = locked.client.request(method.upper(), filled(path, job["id"]), headers=bob)
            assert problem(answer) == (404, "job-not-found"), (method, path)
            tried += 1
    assert tried >= 10
    assert redis_client.hgetall(f"{names.JOB}{job['id']}") == before
    assert locked.client.get("/v1/jobs", headers=bob).json()["data"] == []
    assert locked.client.get("/v1/predictions", headers=bob).json()["results"] == []
    assert locked.client.get(job["urls"]["self"], headers=ann).status_code == 200


def test_what_is_changed_on_the_machine_is_in_the_audit(keys: Keys, made: Made, running: Running) -> None:
    made_id = key_id_of(keys("create", "ann", "--scope", "read", "--name", "a note", "--jobs", "3").stdout.strip())
    assert made_id is not None
    keys("webhook-secret", "--tenant", "ann", "--rotate")
    keys("webhook-secret", "--tenant", "ann")
    keys("revoke", "ann")
    keys("revoke", made_id)
    keys("open", "--yes")
    until(lambda: running.client.get("/v1/admin/audit", headers=OPERATOR).status_code == 200)
    lines = running.client.get("/v1/admin/audit", headers=OPERATOR).json()["data"]
    assert [(each["action"], each["target"], each["outcome"]) for each in lines] == [
        ("keys open", "service", "no key is needed"),
        ("keys revoke", made_id, "revoked"),
        ("keys webhook-secret", "ann", "a new one"),
        ("keys create", made_id, "for ann (a note): read, jobs 3"),
    ]
    assert {(each["via"], each["tenant"], each["key_id"]) for each in lines} == {("machine", "", "")}


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is full")
def test_a_key_that_nobody_was_shown_is_none(settings: Settings, keys: Keys, running: Running, made: Made) -> None:
    """The first key closes the service: a full disk behind `>` would do it with a key that nobody has."""
    environment = {"REDIS_URL": settings.redis_url.get_secret_value(), "PATH": "/usr/bin"}
    with open("/dev/full", "w") as full:
        command = [COMMAND, "keys", "create", "ann"]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, env=environment)
    assert done.returncode == 1
    assert "Redis does not answer" not in done.stderr
    assert "the output cannot be written: No space left on device" in done.stderr
    assert keys("list").stdout == ""
    until(lambda: running.client.get("/v1/jobs").status_code == 200)
    until(lambda: running.client.get("/v1/admin/audit", headers=OPERATOR).status_code == 200)
    lines = running.client.get("/v1/admin/audit", headers=OPERATOR).json()["data"]
    assert [each["action"] for each in lines] == ["keys open", "keys revoke", "keys create"]


def test_a_redis_that_refuses_is_not_said_to_be_silent(keys: Keys, redis_client: redis.Redis) -> None:
    redis_client.config_set("maxmemory", 1)
    try:
        done = keys("create", "ann")
    finally:
        redis_client.config_set("maxmemory", 0)
    assert (done.returncode, done.stdout) == (3, "")
    said = "command not allowed when used memory > 'maxmemory'."
    assert done.stderr == f"darkroom keys: the service's Redis refuses it: {said}\n"
    assert keys("list").stdout == ""


def test_the_scope_admin_says_what_else_the_key_may_do(keys: Keys, settings: Settings) -> None:
    """An earlier gateway reads the scopes that it knows, and makes nothing of the rest."""
    for scopes, granted in (
        (["admin"], ["read", "write", "admin"]),
        (["admin", "read"], ["read", "admin"]),
        (["write"], ["write"]),
    ):
        asked = [part for scope in scopes for part in ("--scope", scope)]
        made = json.loads(keys("create", "ops", *asked, "--json").stdout)
        assert (made["scopes"], "admin" in made) == (granted, False)
    listed = json.loads(keys("list", "--json").stdout)["data"]
    assert sorted(map(str, (each["scopes"] for each in listed)))[0] == str(["read", "admin"])
    with redis.Redis.from_url(settings.redis_url.get_secret_value(), decode_responses=True) as client:
        stored = [json.loads(text) for text in client.hgetall(names.API_KEYS).values()]
    assert all({*each["scopes"]} <= {"read", "write"} for each in stored)
