"""What the service has to bear: clients that repeat themselves, a receiver that often fails, a nemesis.

Everything that is asked, and what came of it, becomes a line of the history: invoke, then ok, fail or info (nobody
knows). The checker reads nothing else about the clients.
"""

from __future__ import annotations

import http.server
import json
import random
import signal
import threading
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx2

from tests.faults.installation import Service, Valkey
from tests.faults.proxy import Losses
from tests.waiting import PLAIN


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


class Client(threading.Thread):
    """Sends jobs until told to stop; looks at some, calls some off.

    Two of three have an Idempotency-Key and are sent until they are acknowledged. The others, the first among them, are
    sent once: what became of one without an answer, nobody knows.
    """

    def __init__(
        self, name: str, service: Service, history: History, webhook: str, *, seed: int, api_key: str, poison: bool
    ) -> None:
        super().__init__(name=name, daemon=True)
        self._service, self._history, self._webhook = service, history, webhook
        self._headers = {"Authorization": f"Bearer {api_key}"}
        self._poison = poison
        self._chance = random.Random(seed)
        self.acknowledged: list[str] = []
        self.over = threading.Event()
        self.hurried = threading.Event()

    def run(self) -> None:
        with httpx2.Client(base_url=self._service.url, timeout=4, **PLAIN, headers=self._headers) as client:
            number = 0
            while not self.over.is_set():
                number += 1
                poison = self._poison and number % 40 == 5
                self._send(client, f"{self.name}-{number}", poison=poison, keyed=number % 3 != 1)
                if self.acknowledged and self._chance.random() < 0.5:
                    self._look(client, self._chance.choice(self.acknowledged[-20:]))
                if self.acknowledged and self._chance.random() < 0.05:
                    job = self.acknowledged[-1]
                    self._call(client, "cancel", job, "POST", f"/v1/jobs/{job}/cancel")
                self.over.wait(self._chance.uniform(0.02, 0.12))

    def _send(self, client: httpx2.Client, key: str, *, poison: bool, keyed: bool) -> None:
        body = {
            "prompt": "poison" if poison else "a circle",
            "seed": 1,
            "num_images": self._chance.choice([1, 1, 2]),
            "num_inference_steps": self._chance.randint(2, 8),
            "webhook": {"url": self._webhook},
            "metadata": {"order": key},
            "priority": self._chance.choice(["interactive", "interactive", "batch"]),
        }
        if not keyed:
            answer = self._call(client, "submit", key, "POST", "/v1/jobs", body=body, poison=poison, keyed=False)
            if answer is not None and answer.is_success:
                self.acknowledged.append(answer.json()["id"])
            return
        again = 2 if self._chance.random() < 0.1 else 1
        while again and not self.hurried.is_set():
            answer = self._call(client, "submit", key, "POST", "/v1/jobs", body=body, poison=poison)
            if answer is None or answer.status_code >= 500 or answer.status_code == 429:
                time.sleep(0.1)
                continue
            again -= 1
            if answer.status_code in (200, 202):
                self.acknowledged.append(answer.json()["id"])

    def _look(self, client: httpx2.Client, job: str) -> None:
        self._call(client, "look", job, "GET", f"/v1/jobs/{job}")

    def _call(
        self, client: httpx2.Client, what: str, about: str, method: str, path: str, *, body: Any = None, **more: Any
    ) -> httpx2.Response | None:
        said = {"what": what, "about": about}
        self._history.write("invoke", self.name, **said, **more)
        headers = {"Idempotency-Key": about} if what == "submit" and more.get("keyed", True) else {}
        try:
            answer = client.request(method, path, json=body, headers=headers)
        except httpx2.TransportError as error:
            self._history.write("info", self.name, **said, error=type(error).__name__)
            return None
        found: dict[str, Any] = answer.json() if answer.content else {}
        kind = "ok" if answer.is_success else "fail"
        told = {"status": found.get("status"), "job": found.get("id")} if answer.is_success else {}
        self._history.write(kind, self.name, **said, http=answer.status_code, **told)
        return answer


class Nemesis(threading.Thread):
    """Kills and pauses, at random moments, everything there is, and for moments loses a third of Redis' replies."""

    def __init__(self, service: Service, valkey: Valkey, history: History, losses: Losses, *, seed: int) -> None:
        super().__init__(name="nemesis", daemon=True)
        self._service, self._valkey, self._history, self._losses = service, valkey, history, losses
        self._chance = random.Random(seed)
        self.over = threading.Event()
        self.did: Counter[str] = Counter()

    def run(self) -> None:
        while not self.over.wait(self._chance.uniform(0.2, 0.8)):
            self.strike(self._chance.random())

    def strike(self, chance: float) -> None:
        worker = self._chance.choice([name for name in self._service.pids if name.startswith("worker")])
        if chance < 0.08:
            self._note("redis killed")
            self._valkey.is_killed()
            time.sleep(self._chance.uniform(0.1, 0.6))
            self._valkey.comes()
        elif chance < 0.15:
            self._kill("gateway")
        elif chance < 0.22:
            self._kill("webhooks")
        elif chance < 0.48:
            self._note("worker paused", pid=self._service.pids[worker])
            pid = self._service.pids[worker]
            self._service.signal(worker, signal.SIGSTOP)
            threading.Timer(self._chance.uniform(1.0, 4.0), _continue, [pid]).start()
        elif chance < 0.72:
            self._kill(worker)
        elif chance < 0.82:
            self._note("worker told to stop", pid=self._service.pids[worker])
            self._service.signal(worker, signal.SIGTERM)
        else:
            self._note("replies lost for a while")
            self._losses.rate = 0.3
            self.over.wait(self._chance.uniform(0.3, 1.0))
            self._losses.rate = 0.0

    def _kill(self, name: str) -> None:
        self._note(f"{name.rstrip('0123456789')} killed", pid=self._service.pids[name])
        self._service.signal(name, signal.SIGKILL)

    def _note(self, what: str, **fields: Any) -> None:
        self.did[what] += 1
        self._history.write("info", "nemesis", what=what, **fields)


def _continue(pid: int) -> None:
    import os

    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGCONT)
