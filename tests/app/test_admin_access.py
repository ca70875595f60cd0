"""Nobody but an operator reaches an operator's route. The routes are those of the OpenAPI: a new one is tried."""

from __future__ import annotations

import base64
import re
from typing import Any

import httpx2
import pytest

from app.admin.access import PREFIX, TAG
from app.main import create_app
from app.settings import Settings
from tests.app.conftest import OPERATOR, OneGateway, Running, ScriptedWorker
from tests.app.test_guard import KEY
from tests.app.test_jobs import PARAMETERS
from tests.app.test_keys import Made, locked, made  # noqa: F401
from tests.app.test_refusals import problem
from tests.waiting import until

DOCUMENT = create_app(Settings()).openapi()
ROUTES = [
    (method.upper(), path, operation)
    for path, operations in DOCUMENT["paths"].items()
    for method, operation in operations.items()
]
OPERATORS = [(method, path) for method, path, operation in ROUTES if TAG in operation["tags"]]
IDS = [f"{method} {path}" for method, path in OPERATORS]


def filled(path: str, value: str = "starter") -> str:
    return re.sub(r"\{[^}]*\}", value, path)


def body_for(method: str) -> dict[str, Any]:
    return {"json": {}} if method == "POST" else {}


def test_the_tag_and_the_path_mean_the_same() -> None:
    assert {path for _, path in OPERATORS} == {path for _, path, _ in ROUTES if path.startswith(f"{PREFIX}/")}
    assert OPERATORS
    assert all(method in ("GET", "POST") for method, _ in OPERATORS), "the guard asks for `read` or `write` beside"


@pytest.fixture
def everybody(locked: Running, made: Made) -> dict[str, dict[str, str]]:  # noqa: F811
    """Callers who are no operators, by what they have."""
    both = made("ann")
    key = both["Authorization"].removeprefix("Bearer ")
    basic = base64.b64encode(f"any:{key}".encode()).decode()
    return {
        "nothing": {},
        "a wrong key": {"Authorization": f"Bearer {KEY}"},
        "read": made("ann", scopes=("read",)),
        "write": made("ann", scopes=("write",)),
        "both": both,
        "both, as Replicate's clients sent it": {"Authorization": f"Token {key}"},
        "both, as the web UI's clients send it": {"Authorization": f"Basic {basic}"},
    }


@pytest.mark.parametrize(("method", "path"), OPERATORS, ids=IDS)
def test_who_is_no_operator_is_refused(
    locked: Running,  # noqa: F811
    everybody: dict[str, dict[str, str]],
    method: str,
    path: str,
) -> None:
    """Whatever is asked for: that there is no such model is not told either."""
    for caller, headers in everybody.items():
        refused = (401, "unauthenticated") if caller in ("nothing", "a wrong key") else (403, "forbidden")
        for target in (filled(path), filled(path, "job_" + "0" * 24), f"{filled(path)}?limit=no"):
            answer = locked.client.request(method, target, headers=headers, **body_for(method))
            assert problem(answer) == refused, (caller, target)


@pytest.mark.parametrize(("method", "path"), OPERATORS, ids=IDS)
def test_no_other_way_of_writing_it_leads_there(
    locked: Running,  # noqa: F811
    made: Made,  # noqa: F811
    method: str,
    path: str,
) -> None:
    headers, target = made("ann"), filled(path)
    if method == "GET":
        head = locked.client.head(target, headers=headers)
        assert (head.status_code, head.content) == (403, b"")
    options = locked.client.options(target, headers=headers)
    assert problem(options) == (405, "method-not-allowed")
    for other in (
        f"{target}/",
        f"/{target}",
        target.upper(),
        target.replace("/v1/", "/v1/../v1/"),
        f"/darkroom{target}",
    ):
        answer = locked.client.request(method, other, headers=headers, **body_for(method))
        assert answer.status_code in (403, 404), other
        assert answer.headers["content-type"].startswith("application/problem+json")


def test_below_a_prefix(gateway_with: OneGateway, made: Made, worker: ScriptedWorker) -> None:  # noqa: F811
    """With the path that a proxy leaves there, and without it."""
    with gateway_with(public_url="http://127.0.0.1/darkroom", require_keys=True) as running:
        ann = made("ann")
        for method, path in OPERATORS:
            for target in (filled(path), f"/darkroom{filled(path)}"):
                answer = running.client.request(method, target, headers=ann, **body_for(method))
                assert answer.status_code == 403, target


def test_an_operator_who_only_reads(locked: Running, made: Made) -> None:  # noqa: F811
    looks, changes = made("ops", scopes=("read",), admin=True), made("ops", scopes=("write",), admin=True)
    for method, path in OPERATORS:
        allowed, refused = (looks, changes) if method == "GET" else (changes, looks)
        kept_out = locked.client.request(method, filled(path), headers=refused, **body_for(method))
        assert problem(kept_out) == (403, "forbidden")
        assert locked.client.request(method, filled(path), headers=allowed, **body_for(method)).status_code != 403


def test_a_key_of_the_environment_is_no_operators(gateway_with: OneGateway) -> None:
    with gateway_with(api_keys=f"ann:{KEY}") as running:
        answer = running.client.get(f"{PREFIX}/queue", headers={"Authorization": f"Bearer {KEY}"})
        assert problem(answer) == (403, "forbidden")


def test_an_open_service_has_who_has_its_token_for_an_operator(client: httpx2.Client, made: Made) -> None:  # noqa: F811
    """Until there is a key."""
    assert client.get(f"{PREFIX}/queue", headers=OPERATOR).status_code == 200
    assert client.get("/v1/jobs", headers=OPERATOR).status_code == 200, "the page's own routes as well"
    ann, ops = made("ann"), made("ops", admin=True)
    until(lambda: client.get(f"{PREFIX}/queue", headers=OPERATOR).status_code == 401)
    assert client.get(f"{PREFIX}/queue", headers=ann).status_code == 403
    assert client.get(f"{PREFIX}/queue", headers=ops).status_code == 200


@pytest.mark.parametrize("headers", [{}, {"Authorization": f"Bearer {KEY}"}, {"Authorization": "Bearer x"}])
def test_who_comes_from_its_machine_is_nobody_for_that(client: httpx2.Client, headers: dict[str, str]) -> None:
    """A proxy there lets everybody come from loopback, may name it as the host, and need not say that it is one."""
    assert client.get("/v1/jobs", headers=headers).status_code == 200
    for method, path in OPERATORS:
        answer = client.request(method, filled(path), headers=headers, **body_for(method))
        assert problem(answer) == (403, "forbidden")
        assert "--scope admin" in answer.json()["detail"]


def test_a_service_that_needs_keys_or_has_no_token_has_no_such_operator(gateway_with: OneGateway) -> None:
    for options, status in (
        ({"require_keys": True}, 401),
        ({"api_keys": f"ann:{KEY}"}, 401),
        ({"operator_token": None}, 403),
    ):
        with gateway_with(**options) as running:
            assert running.client.get(f"{PREFIX}/queue", headers=OPERATOR).status_code == status


CANARY = "zanzibar"
"""A tenant whose name nobody else may read."""


def test_no_route_of_a_tenant_tells_of_another(locked: Running, made: Made, worker: ScriptedWorker) -> None:  # noqa: F811
    bob, ann = made(CANARY), made("ann")
    job = locked.client.post("/v1/jobs", json=PARAMETERS, headers=bob).json()
    secrets = (CANARY, bob["Authorization"].split("_")[1], ann["Authorization"].split("_")[1])
    for method, path, operation in ROUTES:
        if method != "GET" or TAG in operation["tags"]:
            continue
        with locked.client.stream("GET", filled(path, job["id"]), headers=ann, params={"ids": job["id"]}) as answer:
            streams = answer.headers.get("content-type", "").startswith("text/event-stream")
            said = "" if streams else answer.read().decode(errors="replace")
        assert not streams, f"{path} streams what somebody else's job does"
        assert not any(secret in said for secret in secrets), path
