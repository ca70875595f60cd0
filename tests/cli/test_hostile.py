"""A service that is not what it says: it wants the key, a file outside the folder, the terminal, or all the memory."""

from __future__ import annotations

import copy
import gzip
import http.server
import io
import json
import math
import re
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import pytest
from click.testing import Result
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from typer.testing import CliRunner

from app.cli import client, following
from app.cli.decoding import decoded, is_small_png
from app.cli.main import app
from app.cli.naming import Names
from app.contract.messages.picture_record import MAX_PIXELS, PictureError
from app.jobs.schemas import JOB_EXAMPLE

KEY = "k" * 32
ESCAPE = "\x1b]0;pwned\x07\x1b[2J\x9b31m\u202e"
HARMFUL = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")
Run = Callable[..., Result]


@dataclass
class Answer:
    body: bytes
    status: int = 200
    headers: dict[str, str] = field(default_factory=lambda: {"Content-Type": "application/json"})
    is_endless: bool = False


@dataclass
class Server:
    """An HTTP server that answers what a test wants. `heard` are the requests: path and headers."""

    answer: Callable[[str, str], Answer]
    url: str = ""
    heard: list[tuple[str, dict[str, str]]] = field(default_factory=list)

    def keys(self) -> set[str | None]:
        return {headers.get("authorization") for _, headers in self.heard}


@contextmanager
def serving(answer: Callable[[str, str], Answer]) -> Iterator[Server]:
    server = Server(answer)

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.rfile.read(int(self.headers.get("content-length", 0)))
            server.heard.append((self.path, {name.lower(): value for name, value in self.headers.items()}))
            said = server.answer(self.command, self.path)
            self.send_response(said.status)
            for name, value in said.headers.items():
                self.send_header(name, value)
            if not said.is_endless:
                self.send_header("Content-Length", str(len(said.body)))
            self.end_headers()
            with suppress(OSError):
                self.wfile.write(said.body)
                while said.is_endless:
                    self.wfile.write(b"x" * 65_536)
            self.close_connection = True

        do_POST = do_DELETE = do_GET

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as listener:
        thread = threading.Thread(target=listener.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        server.url = f"http://127.0.0.1:{listener.server_address[1]}"
        try:
            yield server
        finally:
            listener.shutdown()
            thread.join()


def drawn(colour: str = "red") -> bytes:
    """A picture with a record."""
    file, note = io.BytesIO(), PngInfo()
    record = {"prompt": "a frog", "seed": 7, "model": "starter", "model_hash": "0" * 64, "reproducible": True}
    note.add_itxt("darkroom", json.dumps(record))
    Image.new("RGB", (16, 16), colour).save(file, "PNG", pnginfo=note)
    return file.getvalue()


def job_at(bucket: str) -> dict[str, Any]:
    """A job that has succeeded, its picture and previews somewhere."""
    previews = {"url": f"{bucket}/sheet?X-Amz-Signature=s", "width": 8, "height": 8, "columns": 2, "steps": [1, 2]}
    image = {"index": 0, "seed": 7, "width": 16, "height": 16, "bytes": 99, "content_type": "image/png"}
    image |= {"url": f"{bucket}/0.png?X-Amz-Signature=s", "previews": previews}
    return copy.deepcopy(JOB_EXAMPLE) | {"status": "succeeded", "images": [image], "warnings": ["cut"]}


MODEL = {
    "id": "starter", "sha256": "0" * 64, "state": "ready", "workers": 1, "width": 128, "height": 128,
    "num_inference_steps": 20, "max_steps": 50, "guidance_scale": 4.0, "scheduler": "euler", "seats": 4,
    "pace_seconds": 1.5,
}  # fmt: skip

INPUT = {
    "id": "in_" + "0" * 24, "bytes": 99, "width": 16, "height": 16, "created_at": "2026-08-01T09:30:00.000Z",
    "expires_at": "2026-08-02T09:30:00.000Z",
}  # fmt: skip


def routes(job: Any, models: Any = None, sent_in: Any = INPUT) -> Callable[[str, str], Answer]:
    """A service whose every job is this one."""

    def answer(method: str, path: str) -> Answer:
        path = path.partition("?")[0]
        if path == "/v1/inputs" and method == "GET":
            return Answer(json.dumps({"data": [sent_in], "next_cursor": None}).encode())
        if path == "/v1/models":
            return Answer(json.dumps({"data": [MODEL] if models is None else models}).encode())
        if path.endswith(".png") or path == "/sheet":
            return Answer(drawn(), headers={"Content-Type": "image/png"})
        if path == "/v1/jobs" and method == "GET":
            return Answer(json.dumps({"data": [job], "next_cursor": None}).encode())
        return Answer(json.dumps(job).encode())

    return answer


@pytest.fixture
def bucket() -> Iterator[Server]:
    """A store of another origin, which refuses two kinds of authentication as S3 does."""
    with serving(lambda method, path: Answer(drawn(), headers={"Content-Type": "image/png"})) as server:
        plain = server.answer

        def answer(method: str, path: str) -> Answer:
            both = "authorization" in server.heard[-1][1] and "X-Amz-Signature" in path
            return Answer(b"Only one auth mechanism allowed", 400) if both else plain(method, path)

        server.answer = answer
        yield server


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """A command in an empty folder. No command may end in a traceback, or write to the terminal what it was told."""

    def run(*arguments: str, url: str) -> Result:
        environment = {"DARKROOM_URL": url, "DARKROOM_API_KEY": KEY, "COLUMNS": "160"}
        result = CliRunner().invoke(app, arguments, env=environment)
        assert result.exception is None or isinstance(result.exception, SystemExit), (arguments, result.exception)
        assert HARMFUL.findall(result.output) == [], (arguments, result.output)
        return result

    # Reading the machine's certificates is most of a command's time, and each of hundreds would do it.
    certificates = ssl.create_default_context()
    monkeypatch.setattr(ssl, "create_default_context", lambda *_, **__: certificates)
    folder = tmp_path / "here"
    folder.mkdir()
    (folder / "old.png").write_bytes(drawn())
    monkeypatch.chdir(folder)
    return run


JOB_ID = JOB_EXAMPLE["id"]
FETCHING = (
    ("generate", "a frog", "-o", "new.png"),
    ("reproduce", "old.png"),
    ("trajectory", JOB_ID, "-o", "steps.png"),
)
COMMANDS = (
    *FETCHING,
    ("generate", "a frog", "-o", "{job}-{model}-{seed}-{prompt}.png"),
    ("jobs", "list"),
    ("jobs", "show", JOB_ID),
    ("jobs", "watch", JOB_ID),
    ("jobs", "cancel", JOB_ID),
    ("jobs", "cancel", "--all"),
    ("inputs", "list"),
    ("inputs", "delete", "in_" + "0" * 24),
    ("inputs", "delete", "--all", "--yes"),
    ("models",),
)


@pytest.mark.parametrize("command", FETCHING, ids=lambda command: command[0])
def test_the_key_goes_to_the_service_and_nowhere_else(run: Run, bucket: Server, command: tuple[str, ...]) -> None:
    with serving(routes(job_at(bucket.url))) as service:
        done = run(*command, url=service.url)
    assert done.exit_code == 0, done.output
    assert bucket.heard
    assert bucket.keys() == {None}
    assert service.keys() == {f"Bearer {KEY}"}


@pytest.mark.parametrize("status", [302, 307])
def test_a_redirect_takes_neither_key_nor_prompt_along(run: Run, bucket: Server, status: int) -> None:
    moved = Answer(b"", status, {"Location": bucket.url + "/v1/jobs"})
    with serving(lambda method, path: moved) as service:
        for command in COMMANDS:
            done = run(*command, url=service.url)
            assert done.exit_code == 3, done.output
            assert "sends us on to" in done.stderr
    assert bucket.heard == []


def test_a_link_of_the_services_own_may_lead_to_a_bucket(run: Run, bucket: Server) -> None:
    """With the key on the way as far as it is ours: within the origin too, where a redirect stays there."""
    with serving(lambda method, path: Answer(b"")) as service:
        onward = {"/first": service.url + "/second", "/second": bucket.url + "/0.png?X-Amz-Signature=s"}
        job = job_at(bucket.url)
        job["images"][0]["url"] = service.url + "/first"
        usual = routes(job)

        def answer(method: str, path: str) -> Answer:
            return Answer(b"", 302, {"Location": onward[path]}) if path in onward else usual(method, path)

        service.answer = answer
        assert run("generate", "a frog", "-o", "new.png", url=service.url).exit_code == 0
    assert service.keys() == {f"Bearer {KEY}"}
    assert {path for path, _ in service.heard} >= set(onward)
    assert (len(bucket.heard), bucket.keys()) == (1, {None})


def test_redirects_without_end(run: Run) -> None:
    with serving(lambda method, path: Answer(b"", 302, {"Location": path})) as service:
        done = run("jobs", "list", url=service.url)
    assert (done.exit_code, "redirects without an end" in done.stderr) == (3, True)


def leaves(value: Any, way: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The way to every value of an answer, of lists and objects too."""
    yield way
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, each in inner:
        yield from leaves(each, (*way, name))


def replaced(value: Any, way: tuple[Any, ...], new: Any) -> Any:
    if not way:
        return new
    changed = copy.deepcopy(value)
    at = changed
    for name in way[:-1]:
        at = at[name]
    at[way[-1]] = new
    return changed


def escaped(value: Any) -> Any:
    """Every text, and every name of an open set, with something for the terminal in it."""
    if isinstance(value, dict):
        return {name: escaped(each) for name, each in value.items()} | {f"new{ESCAPE}": ESCAPE}
    if isinstance(value, list):
        return [escaped(each) for each in value]
    return f"{value}{ESCAPE}" if isinstance(value, str) else value


def told(job: dict[str, Any], **kept: Any) -> dict[str, Any]:
    """The job with escapes wherever a text may be anything."""
    said = escaped(job) | {name: job[name] for name in ("id", "status", "timings")} | kept
    said["timings"] = {f"drawn{ESCAPE}": 1.0}
    for image, honest in zip(said["images"], job["images"], strict=True):
        image["url"] = honest["url"]
        image["previews"]["url"] = honest["previews"]["url"]
    return said


def test_nothing_that_is_told_reaches_the_terminal(run: Run, bucket: Server) -> None:
    """`run` reads what each command printed."""
    job = told(job_at(bucket.url))
    models = [escaped(MODEL) | {"state": "ready"}]
    error = {"title": f"t{ESCAPE}", "detail": f"d{ESCAPE}", "type": "x"}
    failed = told(job_at(bucket.url) | {"images": []}, status="failed", error=error)
    body = {"detail": f"no{ESCAPE}", "errors": [{"pointer": f"/p{ESCAPE}", "detail": f"d{ESCAPE}"}]}
    refusal = Answer(json.dumps(body).encode(), 422)
    sent_in = escaped(INPUT) | {"id": INPUT["id"]}
    for answer in (routes(job, models, sent_in), routes(failed, models, sent_in), lambda method, path: refusal):
        with serving(answer) as service:
            said = [run(*command, url=service.url).output for command in COMMANDS]
        assert all(said), said


def test_a_picture_of_a_stranger_says_nothing_to_the_terminal(run: Run, bucket: Server, tmp_path: Path) -> None:
    file, note = io.BytesIO(), PngInfo()
    note.add_itxt("darkroom", json.dumps({"prompt": "x", "model": f"m{ESCAPE}", "torch": ESCAPE, "model_hash": ESCAPE}))
    Image.new("RGB", (16, 16), "blue").save(file, "PNG", pnginfo=note)
    Path("theirs.png").write_bytes(file.getvalue())
    with serving(routes(job_at(bucket.url))) as service:
        done = run("reproduce", "theirs.png", url=service.url)
    assert done.exit_code == 4
    assert "torch" in done.output


STRANGE = (None, ESCAPE)


@pytest.mark.parametrize("kind", ["job", "model"])
def test_every_member_of_an_answer_may_be_anything(
    run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, kind: str
) -> None:
    """Each in turn is what it must not be: a picture drawn or a sentence, no traceback, no file elsewhere."""
    honest = job_at("http://127.0.0.1:1") if kind == "job" else MODEL
    service = routes(honest)

    async def whole(self: client.Service, method: str, url: str, **_: Any) -> httpx2.Response:
        said = service(method, "/0.png" if "0.png" in url else url)
        asked = httpx2.Request(method, "http://127.0.0.1:1")
        return httpx2.Response(said.status, headers=said.headers, content=said.body, request=asked)

    monkeypatch.setattr(client.Service, "_whole", whole)
    for way in leaves(honest):
        for strange in STRANGE:
            lie = replaced(honest, way, strange)
            service = routes(lie) if kind == "job" else routes(honest, [lie])
            done = run(*(("jobs", "show", JOB_ID) if kind == "job" else ("models",)), url="http://127.0.0.1:1")
            assert done.exit_code in (0, 1, 3), (way, strange)
            assert done.output, (way, strange)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["here"]
    assert all(path.name.startswith(("job_", "old")) for path in (tmp_path / "here").iterdir())


@pytest.mark.parametrize("number", [10**400, math.inf, math.nan], ids=["digits", "infinity", "nan"])
def test_a_number_may_be_none_that_can_be_counted_with(run: Run, number: float) -> None:
    job = job_at("http://127.0.0.1:1")
    timed = replaced(job, ("timings", "drawn"), number)
    lies = {("inputs", "list"): routes(job, sent_in=INPUT | {"bytes": number}), ("jobs", "show", JOB_ID): routes(timed)}
    for command, answer in lies.items():
        with serving(answer) as service:
            done = run(*command, url=service.url)
        assert (done.exit_code, "no darkroom of this version" in done.stderr) == (3, True), command


@pytest.mark.parametrize("command", [("list", "--limit", "10000"), ("delete", "--all", "--yes")], ids=" ".join)
def test_the_same_page_again_is_the_last(run: Run, command: tuple[str, ...]) -> None:
    """Else `run` would not come back."""
    page = Answer(json.dumps({"data": [INPUT], "next_cursor": "more"}).encode())
    with serving(lambda method, path: page if method == "GET" else Answer(b"", 204)) as service:
        assert run("inputs", *command, url=service.url).exit_code == 0
        assert len(service.heard) <= 3


def test_the_beginning_of_an_id_is_looked_for_in_each_page_once(run: Run) -> None:
    """Else `run` would not come back."""
    page = Answer(json.dumps({"data": [JOB_EXAMPLE], "next_cursor": "more"}).encode())
    job = Answer(json.dumps(JOB_EXAMPLE).encode())
    with serving(lambda method, path: job if JOB_ID in path else page) as service:
        assert run("jobs", "show", JOB_ID[:12], url=service.url).exit_code == 0
        assert len(service.heard) == 3


@pytest.mark.parametrize("way", [("id",), ("model",), ("input", "prompt"), ("images", 0, "seed")], ids=str)
@pytest.mark.parametrize("strange", ["../../up", "/tmp/up", "..", f"a{ESCAPE}", 10**300])
def test_no_answer_leads_a_file_out_of_its_folder(
    run: Run, bucket: Server, tmp_path: Path, way: tuple[Any, ...], strange: Any
) -> None:
    with serving(routes(replaced(job_at(bucket.url), way, strange))) as service:
        done = run("generate", "a", "-o", "{job}-{model}-{seed}-{prompt}.png", url=service.url)
    assert done.exit_code in (0, 2, 3), done.output
    assert sorted(path.name for path in tmp_path.iterdir()) == ["here"]
    assert all(path.name.startswith(("job_", "old")) for path in (tmp_path / "here").iterdir())


def test_no_placeholder_leads_out_of_the_folder(tmp_path: Path) -> None:
    job = job_at("http://127.0.0.1") | {"id": "../../up", "model": "../m"}
    job["images"][0]["seed"] = "../../seed"
    names = Names(str(tmp_path / "{job}{model}{seed}{prompt}.png"), pictures=1)
    assert names.write(b"x", job, job["images"][0], number=0).parent == tmp_path


@pytest.mark.parametrize(
    "bad",
    [
        Answer(b"[" * 200_000),
        Answer(b'{"a": ' * 100_000),
        Answer(gzip.compress(b" " * (client.LARGEST_ANSWER + 1)), headers={"Content-Encoding": "gzip"}),
        Answer(b"{", is_endless=True),
        Answer(b"{", 500, is_endless=True),
        Answer(b'{"errors": 7, "detail": {}}', 422),
        Answer(b'{"errors": [7, {}]}', 422, {"Retry-After": "\u00b2"}),
        Answer(b"{}", 429, {"Retry-After": "9" * 400}),
    ],
    ids=["deep list", "deep object", "gzip bomb", "endless", "endless error", "errors", "error", "retry after"],
)
def test_an_answer_that_cannot_be(run: Run, bad: Answer) -> None:
    with serving(lambda method, path: bad) as service:
        for command in (FETCHING[0], ("jobs", "list"), ("jobs", "watch", JOB_ID), ("models",)):
            done = run(*command, url=service.url)
            assert done.exit_code in (2, 3), (command, done.output)
            assert len(done.stderr.splitlines()) == 1, done.stderr


def test_a_picture_without_end(run: Run, bucket: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "MAX_FILE_BYTES", 1024 * 1024)
    bucket.answer = lambda method, path: Answer(b"", is_endless=True)
    with serving(routes(job_at(bucket.url))) as service:
        done = run("generate", "a frog", "-o", "new.png", url=service.url)
    assert (done.exit_code, "larger than" in done.stderr) == (3, True)
    assert not Path("new.png").exists()


@pytest.mark.parametrize("start", [b"data: ", b"data: []\n\n", b'event: job.progress\ndata: {"step": "x"}\n\ndata: '])
def test_a_stream_without_end(run: Run, bucket: Server, monkeypatch: pytest.MonkeyPatch, start: bytes) -> None:
    monkeypatch.setattr(following, "LARGEST_STREAM", 4 * 1024 * 1024)
    ended, waiting = job_at(bucket.url), job_at(bucket.url) | {"status": "queued", "images": []}
    usual = routes(ended)
    stream = Answer(start, headers={"Content-Type": "text/event-stream"}, is_endless=True)

    def answer(method: str, path: str) -> Answer:
        if method == "POST":
            return Answer(json.dumps(waiting).encode(), 202)
        return stream if path.endswith("/events") else usual(method, path)

    with serving(answer) as service:
        done = run("generate", "a frog", "-o", "new.png", url=service.url)
    assert done.exit_code == 0, done.output


def bomb(side: int) -> bytes:
    """Some kilobytes that would be gigabytes."""
    file = io.BytesIO()
    Image.new("1", (side, side)).save(file, "PNG")
    return file.getvalue()


@pytest.mark.parametrize("side", [5_000, 12_000, 14_000])
def test_a_bomb_is_known_by_its_header(monkeypatch: pytest.MonkeyPatch, side: int) -> None:
    data = bomb(side)
    assert len(data) < 100_000
    assert side * side > MAX_PIXELS

    def load(*_: object) -> None:
        raise AssertionError("it was decoded")

    monkeypatch.setattr(Image.Image, "load", load)
    with pytest.raises(PictureError, match="pixels"):
        decoded(data)
    assert not is_small_png(data)


def test_a_bomb_in_a_command(run: Run, bucket: Server) -> None:
    data = bomb(5_000)
    with serving(routes(job_at(bucket.url))) as service:
        bucket.answer = lambda method, path: Answer(data)
        for command in (("reproduce", "old.png"), ("trajectory", JOB_ID, "-o", "steps.gif")):
            done = run(*command, url=service.url)
            assert done.exit_code in (1, 2), done.output
    assert not Path("steps.gif").exists()
