"""What the service has to bear: clients that repeat themselves, a receiver that often fails, an operator.

Everything that is asked, and what came of it, becomes a line of the history: invoke, then ok, fail or info (nobody
knows). The checker reads nothing else about the clients.
"""

from __future__ import annotations

import http.client
import http.server
import io
import json
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx2
import redis
from PIL import Image

from app.contract.objects.names import input_key
from app.contract.redis import keys
from tests.faults.installation import Service, Valkey
from tests.faults.scripted import CARD, HOLD
from tests.waiting import PLAIN, WAIT_SECONDS


class History:
    """JSON lines, in the order in which they were said."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = path.open("a")
        self._lock = threading.Lock()

    def write(self, type_: str, process: str, **fields: Any) -> None:
        line = json.dumps({"at": time.time(), "type": type_, "process": process, **fields})
        with self._lock:
            self._file.write(line + "\n")
            self._file.flush()

    def close(self) -> None:
        self._file.close()


class Receiver:
    """Takes webhooks. A part (a fifth) are answered with 500, and of those most are lost."""

    def __init__(self, seed: int, *, fails: float = 0.2) -> None:
        self.arrived: Counter[str] = Counter()
        chance, arrived = random.Random(seed), self.arrived

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                said = self.rfile.read(length := int(self.headers["content-length"]))
                if len(said) < length:
                    # Its sender was killed in the middle of it.
                    self.close_connection = True
                    return
                body = json.loads(said)
                bad = chance.random() < fails
                if not bad or chance.random() < 0.3:
                    arrived[f"{body['data']['id']}/{body['type']}"] += 1
                self.send_response(500 if bad else 200)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *args: object) -> None:
                return

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self._server.server_port
        self.url = f"http://127.0.0.1:{self.port}/hook"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


class Caller(threading.Thread):
    """Asks the service for something again and again until told to stop, and has it in the history."""

    def __init__(self, name: str, service: Service, history: History, *, seed: int, api_key: str) -> None:
        super().__init__(name=name, daemon=True)
        self._service, self._history = service, history
        self._headers = {"Authorization": f"Bearer {api_key}"}
        self._chance = random.Random(seed)
        self.over = threading.Event()

    def run(self) -> None:
        with httpx2.Client(base_url=self._service.url, timeout=4, **PLAIN, headers=self._headers) as client:
            number = 0
            while not self.over.is_set():
                number += 1
                self._turn(client, number)

    def _turn(self, client: httpx2.Client, number: int) -> None:
        raise NotImplementedError

    def _call(
        self, client: httpx2.Client, what: str, about: str, method: str, path: str, *, keyed: bool = False,
        content: bytes | None = None, body: Any = None, **more: Any,
    ) -> httpx2.Response | None:  # fmt: skip
        said = {"what": what, "about": about}
        self._history.write("invoke", self.name, **said, **more)
        headers = {"Idempotency-Key": about} if keyed else {}
        headers |= {"Content-Type": "image/png"} if content else {}
        try:
            answer = client.request(method, path, json=body, content=content, headers=headers)
        except httpx2.TransportError as error:
            self._history.write("info", self.name, **said, error=type(error).__name__)
            return None
        found: dict[str, Any] = answer.json() if answer.content else {}
        kind = "ok" if answer.is_success else "fail"
        told = {"status": found.get("status"), "job": found.get("id")} if answer.is_success else {"said": found}
        self._history.write(kind, self.name, **said, http=answer.status_code, **told, **more)
        return answer

    def _upload(self, client: httpx2.Client, number: int) -> str | None:
        """The id of a picture that was sent in, the so many'th of PICTURES."""
        answer = self._call(client, "upload", str(number), "POST", "/v1/inputs", content=PICTURES[number])
        return str(answer.json()["id"]) if answer is not None and answer.is_success else None

    def _drop(self, client: httpx2.Client, picture: str) -> None:
        self._call(client, "delete", picture, "DELETE", f"/v1/inputs/{picture}")


def _picture(number: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (64, 64), (number * 20, 0, 0)).save(file, "PNG")
    return file.getvalue()


PICTURES = [_picture(number) for number in range(8)]
"""What clients send in. There are few, so that one client deletes what another one uses and sends again."""


class Client(Caller):
    """Sends jobs until told to stop; looks at some, calls some off.

    Two of three have an Idempotency-Key and are sent until they are acknowledged. The others, the first among them, are
    sent once: what became of one without an answer, nobody knows. Who `edits` starts every second one from a picture,
    which is sent in before and, often, deleted after.
    """

    def __init__(
        self, name: str, service: Service, history: History, webhook: str, *, seed: int, api_key: str, poison: bool,
        edits: bool, models: Sequence[str] = (),
    ) -> None:  # fmt: skip
        super().__init__(name, service, history, seed=seed, api_key=api_key)
        self._models = models
        self._edits = edits
        self._webhook = webhook
        self._poison = poison
        self.acknowledged: list[str] = []
        self.answers = Counter[str]()
        self.hurried = threading.Event()

    def _turn(self, client: httpx2.Client, number: int) -> None:
        poison = self._poison and number % 40 == 5
        picture = self._upload(client, self._chance.randrange(len(PICTURES))) if self._edits and number % 2 else None
        self._send(client, f"{self.name}-{number}", poison=poison, keyed=number % 3 != 1, picture=picture)
        if picture and self._chance.random() < 0.5:
            self._drop(client, picture)
        if self.acknowledged and self._chance.random() < 0.5:
            self._look(client, self._chance.choice(self.acknowledged[-20:]))
        if self.acknowledged and self._chance.random() < 0.05:
            job = self.acknowledged[-1]
            self._call(client, "cancel", job, "POST", f"/v1/jobs/{job}/cancel")
        self.over.wait(self._chance.uniform(0.02, 0.12))

    def _send(self, client: httpx2.Client, order: str, *, poison: bool, keyed: bool, picture: str | None) -> None:
        body = {
            "prompt": "poison" if poison else "a circle",
            "seed": 1,
            "num_images": self._chance.choice([1, 1, 2]),
            "num_inference_steps": self._chance.randint(2, 8),
            "webhook": {"url": self._webhook},
            "metadata": {"order": order},
            "priority": self._chance.choice(["interactive", "interactive", "batch"]),
        }
        if self._models:
            body["model"] = self._chance.choice(self._models)
        if picture:
            body |= {"image": {"input": picture}, "strength": 0.5}
        more = {"body": body, "poison": poison, "picture": picture}
        again = 2 if self._chance.random() < 0.1 else 1
        while again and not self.hurried.is_set():
            answer = self._call(client, "submit", order, "POST", "/v1/jobs", keyed=keyed, **more)
            self.answers["none" if answer is None else str(answer.status_code)] += 1
            if answer is not None and answer.status_code in (200, 202):
                self.acknowledged.append(answer.json()["id"])
            if not keyed:
                return
            if answer is None or answer.status_code >= 500 or answer.status_code == 429:
                time.sleep(0.1)
                continue
            again -= 1

    def _look(self, client: httpx2.Client, job: str) -> None:
        self._call(client, "look", job, "GET", f"/v1/jobs/{job}")


class Sender(Caller):
    """Sends a picture in, all the time: one that few others send, since while anybody does its file is not removed."""

    def __init__(self, *args: Any, which: int, sent: set[str], **options: Any) -> None:
        super().__init__(*args, **options)
        self._which, self._sent = which, sent

    def _turn(self, client: httpx2.Client, number: int) -> None:
        if picture := self._upload(client, self._which):
            self._sent.add(picture)
        self.over.wait(self._chance.uniform(0, 0.02))


class Deleter(Caller):
    """Deletes what senders have sent: where an answer of Redis was lost, record and file have gone, and the same file
    may have come again, before Redis is asked once more."""

    def __init__(self, *args: Any, sent: set[str], **options: Any) -> None:
        super().__init__(*args, **options)
        self._sent = sent

    def _turn(self, client: httpx2.Client, number: int) -> None:
        for picture in [*self._sent]:
            self._drop(client, picture)
        self.over.wait(self._chance.uniform(0, 0.1))


class Inspector(threading.Thread):
    """Looks whether each picture that came in has its file as long as it has its record."""

    def __init__(self, service: Service, valkey: Valkey, history: History, tenant: str) -> None:
        super().__init__(name="inspector", daemon=True)
        self._pictures, self._valkey, self._history, self._tenant = service.pictures, valkey, history, tenant
        self.over = threading.Event()

    def run(self) -> None:
        with self._valkey.client() as client:
            while not self.over.wait(0.005):
                there: Any = client.zrange(keys.INPUTS_OF + self._tenant, 0, -1)
                for picture in there:
                    self._look(client, picture)

    def _look(self, client: redis.Redis, picture: str) -> None:
        before: Any = client.hmget(keys.INPUT + picture, "token", "sha256")
        if before[0] and not (self._pictures / input_key(self._tenant, before[1])).exists():
            after: Any = client.hmget(keys.INPUT + picture, "token", "sha256")
            if before == after:
                self._history.write("info", self.name, what="no file", about=picture)


class Operator(Caller):
    """Drains one worker after the other, and takes every second drain back, soon or not so soon."""

    def _turn(self, client: httpx2.Client, number: int) -> None:
        if self.over.wait(self._chance.uniform(0.5, 1.5)):
            return
        seen = self._call(client, "list", "workers", "GET", "/v1/admin/workers")
        workers = seen.json()["data"] if seen is not None and seen.is_success else []
        if not workers:
            return
        # The dead are listed for half a minute more.
        lately = sorted(workers, key=lambda each: str(each["last_beat_at"]))[-3:]
        worker = self._chance.choice(lately)["name"]
        self._call(client, "drain", worker, "POST", f"/v1/admin/workers/{worker}/drain", body={})
        if number % 2:
            self.over.wait(self._chance.uniform(0, 0.3))
            self._call(client, "undrain", worker, "POST", f"/v1/admin/workers/{worker}/undrain", body={})


class Asker(Caller):
    """A program with OpenAI's client, which gives up too early and asks again: the same words, and no key by which the
    two could be known. Nothing is drawn to its end meanwhile, so that what it has left is there to be joined."""

    def __init__(
        self, name: str, service: Service, history: History, valkey: Valkey, webhook: str, *, seed: int, api_key: str
    ) -> None:
        super().__init__(name, service, history, seed=seed, api_key=api_key)
        self._valkey, self._webhook = valkey, webhook
        self._hold = service.diary.with_name(HOLD)

    def _turn(self, client: httpx2.Client, number: int) -> None:
        order = f"{self.name}-{number}"
        self._hold.touch()
        try:
            with self._valkey.client() as redis_client, closing(self._ask(order)) as first:
                if not self._comes_to(lambda: self._waits_of(redis_client, order)):
                    return
                before = self._waits_of(redis_client, order)
                first.close()
                with closing(self._ask(order, again=True)) as second:
                    self._comes_to(lambda: {*self._waits_of(redis_client, order).values()} - {*before.values()})
                    self._hold.unlink()
                    answer = second.getresponse()
                    self._history.write("ok", self.name, what="ask again", about=order, http=answer.status)
        except OSError as error:
            self._history.write("info", self.name, what="ask again", about=order, error=type(error).__name__)
        finally:
            self._hold.unlink(missing_ok=True)
        self.over.wait(self._chance.uniform(0.3, 0.8))

    def _ask(self, order: str, *, again: bool = False) -> http.client.HTTPConnection:
        """Sent, and not answered yet."""
        self._history.write("invoke", self.name, what="ask again" if again else "ask", about=order)
        body = {
            "model": CARD.name, "prompt": "a circle", "num_inference_steps": 4, "response_format": "url",
            "webhook": {"url": self._webhook}, "metadata": {"order": order},
        }  # fmt: skip
        headers = {"Content-Type": "application/json"} | ({"x-stainless-retry-count": "1"} if again else {})
        connection = http.client.HTTPConnection("127.0.0.1", self._service.port, timeout=WAIT_SECONDS)
        connection.request("POST", "/v1/images/generations", json.dumps(body), self._headers | headers)
        return connection

    def _comes_to(self, found: Callable[[], Any]) -> bool:
        ends = time.monotonic() + WAIT_SECONDS
        while not found():
            if time.monotonic() > ends or self.over.is_set():
                return False
            time.sleep(0.01)
        return True

    @staticmethod
    def _waits_of(client: Any, order: str) -> dict[str, str]:
        """Jobs of the order that a request waits for, or has waited for, and which request."""
        waits = {
            job: said for name in client.scan_iter(f"{keys.PENDING}*") for job, said in client.hgetall(name).items()
        }
        own = {"order": order}
        return {
            job: said.split()[1]
            for job, said in waits.items()
            if json.loads(client.hget(keys.JOB + job, "metadata") or "{}") == own
        }
