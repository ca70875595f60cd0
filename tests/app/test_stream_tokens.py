"""A token for EventSource: it opens the events of its job, for a while, and nothing else."""

from __future__ import annotations

from collections.abc import Iterator
from urllib.parse import urlsplit

import httpx2
import pytest
import redis
import structlog

from app.contract.redis import keys as names
from app.edge.keyring import key_id_of
from app.edge.stream_tokens import TOKEN_SECONDS, StreamTokens
from tests.app.conftest import OneGateway, Running, ScriptedWorker
from tests.app.test_guard import KEY, OTHER_KEY
from tests.app.test_jobs import PARAMETERS
from tests.app.test_keys import Keys, Made, keys, made  # noqa: F401
from tests.app.test_refusals import problem
from tests.waiting import until

ANN, BOB = ({"Authorization": f"Bearer {key}"} for key in (KEY, OTHER_KEY))


@pytest.fixture
def locked(gateway_with: OneGateway, worker: ScriptedWorker) -> Iterator[Running]:
    worker.announce()
    with gateway_with(api_keys=f"ann:{KEY},bob:{OTHER_KEY}", cors_origins="https://app.example") as running:
        yield running


def send(client: httpx2.Client, headers: dict[str, str] = ANN) -> str:
    return str(client.post("/v1/jobs", json=PARAMETERS, headers=headers).json()["id"])


def token(client: httpx2.Client, job: str, headers: dict[str, str] = ANN) -> dict[str, str]:
    answer = client.post(f"/v1/jobs/{job}/events/token", headers=headers)
    assert answer.status_code == 201, answer.text
    assert answer.headers["cache-control"] == "no-store"
    return answer.json()


def test_event_source_listens_without_a_key(locked: Running, worker: ScriptedWorker, redis_client: redis.Redis) -> None:
    job = send(locked.client)
    given = token(locked.client, job)
    assert given["url"] == f"{locked.url}/v1/jobs/{job}/events?token={given['token']}"
    assert given["expires_in"] == TOKEN_SECONDS
    page = {"Origin": "https://app.example", "Accept": "text/event-stream"}
    with locked.client.stream("GET", given["url"], headers=page) as stream:
        assert stream.headers["access-control-allow-origin"] == "https://app.example"
        lines = stream.iter_lines()
        until(lambda: next(lines) == "event: job")
        worker.succeed(worker.claim())
        until(lambda: next(lines) == "event: job.succeeded")
    again = locked.client.get(given["url"], headers={"Last-Event-ID": "0-0"})
    assert "event: job.succeeded" in again.text, "a connection that broke comes back with the same link"
    assert locked.client.head(given["url"]).status_code == 200
    [name] = redis_client.keys(names.STREAM_TOKEN + "*")
    assert 0 < redis_client.ttl(name) <= TOKEN_SECONDS
    assert given["token"] not in name + redis_client.get(name)


def test_replicates_client_for_javascript_sends_no_key_to_a_stream(locked: Running, worker: ScriptedWorker) -> None:
    """replicate 1.4.0, stream(): POST with the key, then fetch(urls.stream) with nothing but Accept."""
    client, asked = locked.client, {"input": {"prompt": "a"}, "stream": True}
    created = client.post("/v1/models/darkroom/starter/predictions", json=asked, headers=ANN).json()
    page = {"Accept": "text/event-stream", "Origin": "https://app.example"}
    with client.stream("GET", created["urls"]["stream"], headers=page) as stream:
        assert stream.status_code == 200
        assert stream.headers["access-control-allow-credentials"] == "true", "its README has withCredentials: true"
        worker.succeed(worker.claim())
        assert "event: done" in "\n".join(stream.iter_lines())
    secret = created["urls"]["stream"].partition("?token=")[2]
    for path in (
        f"/v1/jobs/{created['id']}/events",
        f"/v1/predictions/{created['id']}",
        f"/v1/predictions/{'job_' + '0' * 24}/stream",
    ):
        assert problem(client.get(path, params={"token": secret})) == (401, "unauthenticated"), path
    seen = client.get(f"/v1/predictions/{created['id']}", headers=ANN | page)
    assert "token" not in seen.json()["urls"]["stream"]
    assert "access-control-allow-credentials" not in seen.headers
    remembered = client.get(created["urls"]["stream"], headers=ANN | page)
    assert remembered.status_code == 200
    assert "access-control-allow-credentials" not in remembered.headers, "a browser's password opened it, not the link"


def test_a_prediction_that_is_in_is_answered_where_no_token_can_be_kept(
    locked: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its caller would take a 503 for a request that was not taken, and have it drawn twice."""

    async def away(*_: object) -> str:
        raise redis.ConnectionError("gone")

    monkeypatch.setattr(StreamTokens, "create", away)
    created = locked.client.post("/v1/predictions", json={"input": {"prompt": "a"}}, headers=ANN)
    assert created.status_code == 201, created.text
    assert created.json()["urls"]["stream"].endswith("/stream"), "as every other answer has it"


def test_a_key_that_may_not_look_is_given_no_link_that_may(locked: Running, made: Made) -> None:  # noqa: F811
    writer = made("ann", scopes=("write",))
    created = locked.client.post("/v1/predictions", json={"input": {"prompt": "a"}}, headers=writer)
    assert created.status_code == 201, created.text
    assert "token" not in created.json()["urls"]["stream"]


def test_a_page_elsewhere_cannot_listen_by_what_the_browser_remembers(locked: Running, worker: ScriptedWorker) -> None:
    """A browser that was shown `https://anyone:key@…` sends that by itself, and it opens a stream whatever the link."""
    job = send(locked.client)
    worker.succeed(worker.claim())
    page = {"Origin": "https://app.example"}
    answer = locked.client.get(f"/v1/predictions/{job}/stream?token=any", auth=("anyone", KEY), headers=page)
    assert answer.status_code == 200
    assert "access-control-allow-credentials" not in answer.headers


def test_a_key_that_may_not_read_gets_no_link_that_does(locked: Running, made: Made) -> None:  # noqa: F811
    writes, asked = made("ann", scopes=("write",)), {"input": {"prompt": "a"}}
    created = locked.client.post("/v1/models/darkroom/starter/predictions", json=asked, headers=writes).json()
    assert "token" not in created["urls"]["stream"]


def test_it_opens_nothing_else(locked: Running) -> None:
    client, job, other = locked.client, send(locked.client), send(locked.client)
    secret = token(client, job)["token"]
    refused = [
        ("GET", f"/v1/jobs/{other}/events"),
        ("GET", f"/v1/jobs/{job}"),
        ("GET", f"/v1/jobs/{job}/events/"),
        ("POST", f"/v1/jobs/{job}/events"),
        ("POST", f"/v1/jobs/{job}/events/token"),
        ("POST", f"/v1/jobs/{job}/cancel"),
        ("DELETE", f"/v1/jobs/{job}"),
        ("GET", f"/v1/jobs/{job}/images/0"),
        ("GET", f"/v1/predictions/{job}/stream"),
        ("GET", "/v1/jobs"),
    ]
    for method, path in refused:
        assert problem(client.request(method, path, params={"token": secret})) == (401, "unauthenticated"), path
        header = {"Authorization": f"Bearer {secret}"}
        assert problem(client.request(method, path, headers=header)) == (401, "unauthenticated"), path


@pytest.mark.parametrize("change", ["{0}x", "", "{0}&token={0}", "%00", "%ff", "zanzibar"])
def test_other_tokens_are_none(locked: Running, change: str) -> None:
    job = send(locked.client)
    secret = token(locked.client, job)["token"]
    answer = locked.client.get(f"/v1/jobs/{job}/events?token={change.format(secret)}")
    assert problem(answer) == (401, "unauthenticated")


def test_a_wrong_key_is_not_helped_by_a_token(locked: Running) -> None:
    url = token(locked.client, send(locked.client))["url"]
    assert problem(locked.client.get(url, headers={"Authorization": "Bearer zanzibar"})) == (401, "unauthenticated")


def test_only_its_owner_can_ask_for_one(locked: Running) -> None:
    job = send(locked.client)
    assert problem(locked.client.post(f"/v1/jobs/{job}/events/token", headers=BOB)) == (404, "job-not-found")
    assert problem(locked.client.post("/v1/jobs/x/events/token", headers=ANN)) == (404, "job-not-found")
    assert problem(locked.client.post(f"/v1/jobs/{job}/events/token")) == (401, "unauthenticated")


def test_its_time_ends(locked: Running, redis_client: redis.Redis) -> None:
    url = token(locked.client, send(locked.client))["url"]
    [name] = redis_client.keys(names.STREAM_TOKEN + "*")
    redis_client.delete(name)
    assert problem(locked.client.get(url)) == (401, "unauthenticated")


def test_it_ends_with_its_key(locked: Running, keys: Keys, made: Made) -> None:  # noqa: F811
    """Also a stream that is open."""
    header = made("ann", scopes=("read",))
    job = send(locked.client)
    url = token(locked.client, job, header)["url"]
    with locked.client.stream("GET", url) as stream:
        assert stream.status_code == 200
        assert keys("revoke", key_id_of(header["Authorization"].removeprefix("Bearer ")) or "").returncode == 0
        assert "event: job\n" in "\n".join(stream.iter_lines()), "it has ended"
    until(lambda: locked.client.get(url).status_code == 401)


def test_a_reading_key_may_listen(locked: Running, made: Made) -> None:  # noqa: F811
    header = made("ann", scopes=("read",))
    job = send(locked.client)
    assert token(locked.client, job, header)["token"]
    assert problem(locked.client.post(f"/v1/jobs/{job}/cancel", headers=header)) == (403, "forbidden")


def test_no_log_line_holds_it(locked: Running, worker: ScriptedWorker) -> None:
    job = send(locked.client)
    with structlog.testing.capture_logs() as logs:
        given = token(locked.client, job)
        worker.succeed(worker.claim())
        locked.client.get(given["url"])
        locked.client.get(f"/v1/jobs/{job}", params={"token": given["token"]})
    assert given["token"] not in str(logs)
    assert urlsplit(given["url"]).query not in locked.client.get("/metrics", headers=ANN).text


def test_without_keys_it_works_too(client: httpx2.Client, worker: ScriptedWorker) -> None:
    job = send(client, {})
    worker.succeed(worker.claim())
    assert "succeeded" in client.get(token(client, job, {})["url"]).text


def test_a_token_of_the_open_days_ends_with_them(
    client: httpx2.Client, running: Running, gateway_with: OneGateway
) -> None:
    url = token(client, send(client, {}))["url"]
    with gateway_with(require_keys=True) as closed:
        assert problem(closed.client.get("/" + url.split("/", 3)[3])) == (401, "unauthenticated")
