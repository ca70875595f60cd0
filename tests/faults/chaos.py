"""`python -m tests.faults.chaos --seed 1 --seconds 60`: a service, its load and its nemesis, and then the reckoning.

Real processes, a real Valkey, real files; only the engine is scripted, and leases run out twenty times faster, unless
`--real-time` is given.
Prints one JSON line per run; the exit code is the number of kinds of violations.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import httpx2
import redis
import redis.asyncio

from app.contract.redis import keys
from app.edge.keyring import Keyring
from tests.faults import mutants
from tests.faults.accounts import OPERATOR
from tests.faults.checker import check
from tests.faults.evidence import TENANT, Evidence, Findings
from tests.faults.fork_server import LEASE, MUTANT, ORPHAN, REAL_TIME
from tests.faults.installation import ForkServer, Service, Valkey
from tests.faults.load import (
    Asker,
    Caller,
    Client,
    Deleter,
    History,
    Inspector,
    Operator,
    Receiver,
    Sender,
)
from tests.faults.nemesis import Nemesis
from tests.faults.proxy import Losses, LossyProxy
from tests.faults.scripted import ASLEEP, CARD, FOLDERS, SECOND
from tests.waiting import PLAIN, WAIT_SECONDS

ORPHAN_MS = 10_000
"""Longer than any pause of the nemesis: no zombie writes after its leftovers were removed."""

ENOUGH = 20
"""Jobs without which a run says nothing: a slow machine goes on until it has brought in so many."""

EDITORS = 2
"""Of four clients. Only few: a gateway that was killed has to start a process before it takes a picture in."""

SENDERS = 3
"""Of a picture each, where only replies are lost; and as many who delete them. They wait most of the time."""

OFTEN = {"input_add": 0.6, "input_removed": 0.4}
"""What comes behind a change of the picture store, which others may have undone before it is said again."""

FATE = {
    "claimed": 0.03,
    "denoise": 0.01,
    "upload": 0.02,
    "before finish": 0.03,
    "after finish": 0.03,
    ASLEEP + "upload": 0.02,
    ASLEEP + "before finish": 0.02,
}
"""Chances per job and stage (per picture and file for "upload")."""


Trouble = Caller | Nemesis | Inspector


class NothingShown(Exception):
    """The service has not come so far that the run could say anything. `str()` says what it waited for."""


def run(
    folder: Path,
    fork_server: ForkServer,
    *,
    seed: int,
    seconds: float,
    mutant: str = "none",
    drain: float = WAIT_SECONDS,
    patience: float = WAIT_SECONDS,
    real_time: bool = False,
    only_replies: bool = False,
    folders: bool = False,
) -> Findings:
    """One run in `folder`, which must be empty. At its end the service is left alone until it rests, or has ended no
    job for `drain` seconds. Raises NothingShown where it breaks no promise, and has taken in no job for `patience`.

    `real_time`: leases of 30 s, as users have them. `only_replies`: nothing dies and no lease runs out, but replies of
    Redis are lost all the time, the first two of each script among them; then everything has to happen exactly once.
    `folders`: each worker has two models, one of them in memory at a time, and jobs are of either.
    """
    valkey = Valkey(folder / "redis", durable=mutant != "aof off")
    valkey.comes()
    losses = Losses(first=2, rate=0.05, often=OFTEN, seed=seed) if only_replies else Losses(seed=seed)
    proxy = LossyProxy(valkey.port, losses, seed=seed)
    receiver = Receiver(seed, fails=0.0 if only_replies else 0.2)
    environment = _environment(mutant, real_time=real_time, only_replies=only_replies)
    environment |= {FOLDERS: "1", "DARKROOM_HOLD_SECONDS": "0.3"} if folders else {}
    environment |= {"DARKROOM_REDIS_URL": proxy.url, "DARKROOM_WEBHOOK_PORTS": str(receiver.port)}
    fate = {} if only_replies else FATE | mutants.fate_of(mutant)
    service = Service(folder, fork_server, valkey, fate=fate, seed=seed, environment=environment)
    history = History(folder / "history.jsonl")
    api_key, key_id = asyncio.run(_a_key(valkey, TENANT))
    admin_key, _ = asyncio.run(_a_key(valkey, OPERATOR, admin=True))
    clients = [
        Client(
            f"c{n}", service, history, receiver.url, seed=seed * 100 + n, api_key=api_key, poison=not only_replies,
            edits=n < EDITORS, models=(CARD.name, SECOND.name) if folders else (),
        )
        for n in range(4)
    ]  # fmt: skip
    operator = Operator(OPERATOR, service, history, seed=seed, api_key=admin_key)
    nemesis = Nemesis(service, valkey, history, losses, seed=seed)
    troubles: list[Trouble] = [operator, nemesis]
    if only_replies:
        sent: set[str] = set()
        how: dict[str, Any] = {"api_key": api_key, "sent": sent}
        senders = (Sender(f"s{n}", service, history, seed=seed + n, which=n, **how) for n in range(SENDERS))
        deleters = (Deleter(f"d{n}", service, history, seed=seed + n, **how) for n in range(SENDERS))
        # A gateway that dies in between forgets whom it had: then what is asked again may be drawn twice.
        asker = Asker("a", service, history, valkey, receiver.url, seed=seed, api_key=api_key)
        troubles = [operator, asker, *senders, *deleters, Inspector(service, valkey, history, TENANT)]
    began = time.monotonic()
    try:
        try:
            service.start()
            too_little = _go_on(service, clients, troubles, seconds=seconds, patience=patience)
            rest = Rest(valkey, _acknowledged(history.path))
            rested = moves_on(rest.missing, seconds=drain)
        finally:
            _all_said(clients, troubles)
            service.stop()
            receiver.close()
            history.close()
            proxy.close()
        with valkey.client() as client:
            evidence = Evidence(
                _lines(history.path),
                _lines(service.diary),
                client,
                service.pictures,
                receiver.arrived,
                key_id,
                only_replies,
            )
            findings = check(evidence)
    finally:
        valkey.is_killed()
    if too_little and not findings.violations:
        raise NothingShown(too_little)
    figures = {
        "seed": seed,
        "mutant": mutant,
        "rested": rested or f"no: {rest.words()}",
        "seconds": round(time.monotonic() - began, 1),
        **nemesis.did,
        "replies lost": proxy.lost.total(),
        "of": dict(proxy.lost),
    }
    findings.figures = figures | {"births": service.births} | findings.figures
    return findings


def _environment(mutant: str, *, real_time: bool, only_replies: bool) -> dict[str, str]:
    """Of all processes."""
    environment = {
        "DARKROOM_TEST_STEP": "0.04",
        "DARKROOM_SNAPSHOT_SECONDS": "0.05",
        MUTANT: mutant,
        ORPHAN: REAL_TIME if real_time else str(ORPHAN_MS),
    }
    if mutant == "aof off":
        environment["DARKROOM_REDIS_DURABILITY"] = "ignore"
    if only_replies:
        # Who leaves too early hands back what it holds, and that is seen.
        environment |= {LEASE: "3600000", "DARKROOM_GRACE_SECONDS": "0"}
    return environment


def _go_on(
    service: Service,
    clients: list[Client],
    troubles: list[Trouble],
    *,
    seconds: float,
    patience: float,
) -> str:
    """Traffic and troubles for so long, and until there were ENOUGH jobs, or none more for so long: then this says
    why. Raises NothingShown where nothing can begin."""
    if not moves_on(lambda: 0 if _is_ready(service) else 1, seconds=WAIT_SECONDS):
        raise NothingShown(f"for {WAIT_SECONDS:g} s the gateway was not ready, or no worker was there")
    for thread in (*clients, *troubles):
        thread.start()
    time.sleep(seconds)
    enough = moves_on(lambda: ENOUGH - sum(len(client.acknowledged) for client in clients), seconds=patience)
    _all_said(clients, troubles)
    answers = sum((client.answers for client in clients), Counter[str]())
    return "" if enough else f"no job came in for {patience:g} s; {ENOUGH} are needed. Of submits came {dict(answers)}"


def _is_ready(service: Service) -> bool:
    try:
        return httpx2.get(f"{service.url}/readyz", **PLAIN, timeout=4).status_code == 200
    except httpx2.TransportError:
        return False


async def _a_key(valkey: Valkey, tenant: str, **more: Any) -> tuple[str, str]:
    """An API key whose limits are never met, so that what is charged to it can be counted; and its id."""
    async with redis.asyncio.Redis(port=valkey.port, decode_responses=True) as client:
        plenty = 10**9
        key, info = await Keyring(client).create(tenant, requests_per_minute=plenty, cost_per_minute=plenty, **more)
        return key, info.id


def _lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def _all_said(clients: list[Client], troubles: list[Trouble]) -> None:
    """The troubles end, and then every client ends what it is saying; one that gets no answer any more is cut short.
    Said again, nothing happens."""
    for thread in troubles:
        thread.over.set()
    for thread in filter(threading.Thread.is_alive, troubles):
        thread.join()
    for client in clients:
        client.over.set()
    ends = time.monotonic() + 15
    for client in filter(threading.Thread.is_alive, clients):
        client.join(max(0.1, ends - time.monotonic()))
    for client in filter(threading.Thread.is_alive, clients):
        client.hurried.set()
        client.join(WAIT_SECONDS)


def _acknowledged(history: Path) -> set[str]:
    """Ids of the jobs that were accepted, as far as their clients know."""
    return {line["job"] for line in _lines(history) if line["type"] == "ok" and line.get("what") == "submit"}


def moves_on(missing: Callable[[], int], *, seconds: float) -> bool:
    """Wait until nothing is missing. False when it has not become less for so long: however slow a machine is, what it
    does gives it time for the rest, and a service that stands still is not waited for."""
    ends, least = time.monotonic() + seconds, missing()
    while least > 0 and time.monotonic() < ends:
        time.sleep(0.1)
        if (left := missing()) < least:
            ends, least = time.monotonic() + seconds, left
    return least <= 0


class Rest:
    """What is left to do until nothing is."""

    def __init__(self, valkey: Valkey, acknowledged: set[str]) -> None:
        self._valkey = valkey
        self._open = acknowledged
        self._left = Counter({"redis": 1})

    def missing(self) -> int:
        """How much that is."""
        with suppress(redis.RedisError), self._valkey.client() as client:
            self._open = {job for job in self._open if not _is_over(client, job)}
            owed = {name: client.zcard(name) for name in (keys.LEASES, keys.OUTBOX, keys.ORPHANS)}
            waiting = sum(map(client.zcard, client.scan_iter(f"{keys.QUEUED}*")))
            self._left = Counter({"jobs": len(self._open), "waiting": waiting} | owed)
        return self._left.total()

    def words(self) -> str:
        """The same, for whoever wonders."""
        return ", ".join(f"{name}: {count}" for name, count in self._left.items() if count)


def _is_over(client: redis.Redis, job: str) -> bool:
    return client.hget(keys.JOB + job, "status") not in ("queued", "running")


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--seed", type=int, default=1)
    options.add_argument("--seconds", type=float, default=60)
    options.add_argument("--real-time", action="store_true", help="leases of 30 s; takes some minutes to come to rest")
    options.add_argument("--only-replies", action="store_true", help="lose replies, kill nothing, forgive nothing")
    options.add_argument("--folders", action="store_true", help="workers have two models, one in memory at a time")
    options.add_argument("--mutants", action="store_true", help="each mutant, until a seed catches it")
    chosen = options.parse_args()
    how = {"real_time": chosen.real_time, "only_replies": chosen.only_replies, "folders": chosen.folders}
    with closing(ForkServer()) as fork_server:
        if chosen.mutants:
            return sum(not _caught(fork_server, name, chosen.seed, chosen.seconds) for name in mutants.MUTANTS)
        findings = _show(fork_server, chosen.seed, chosen.seconds, **how)
        return len(findings.violations) if findings else 1


def _caught(fork_server: ForkServer, mutant: str, seed: int, seconds: float) -> bool:
    made = mutants.MUTANTS[mutant]
    how = {"only_replies": made.of_replies, "folders": made.of_folders}
    runs = (_show(fork_server, seed + n, seconds, mutant=mutant, **how) for n in range(3))
    return any(findings is not None and mutants.convicts(mutant, findings) for findings in runs)


def _show(fork_server: ForkServer, seed: int, seconds: float, **how: Any) -> Findings | None:
    """None where the run has shown nothing."""
    # A job that loses three workers has waited for three leases.
    drain = 25 if "mutant" in how else 400 if how.get("real_time") else 240
    how |= {"patience": 30 if "mutant" in how else WAIT_SECONDS}
    with tempfile.TemporaryDirectory(prefix="darkroom-chaos-") as folder:
        try:
            findings = run(Path(folder), fork_server, seed=seed, seconds=seconds, drain=drain, **how)
        except NothingShown as error:
            print(json.dumps({"seed": seed, "mutant": how.get("mutant"), "error": str(error)}), flush=True)
            return None
    said: dict[str, Any] = findings.figures | {"violations": dict(findings.violations), "examples": findings.examples}
    print(json.dumps(said), flush=True)
    return findings


if __name__ == "__main__":
    raise SystemExit(main())
