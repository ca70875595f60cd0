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
import time
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import httpx2
import redis
import redis.asyncio

from app.contract.redis import keys
from app.edge.keyring import Keyring
from tests.faults import mutants
from tests.faults.checker import TENANT, Evidence, Findings, check
from tests.faults.fork_server import LEASE, MUTANT, ORPHAN, REAL_TIME
from tests.faults.installation import ForkServer, Service, Valkey
from tests.faults.load import Client, History, Nemesis, Receiver
from tests.faults.proxy import Losses, LossyProxy
from tests.waiting import PLAIN, WAIT_SECONDS, until

ORPHAN_MS = 10_000
"""Longer than any pause of the nemesis: no zombie writes after its leftovers were removed."""

ENOUGH = 20
"""Jobs without which a run says nothing: a slow machine goes on until it has brought in so many."""

FATE = {"claimed": 0.03, "denoise": 0.01, "upload": 0.02, "before finish": 0.03, "after finish": 0.03}
"""Chances per job and stage (per picture and file for "upload")."""


def run(
    folder: Path,
    fork_server: ForkServer,
    *,
    seed: int,
    seconds: float,
    mutant: str = "none",
    drain: float = WAIT_SECONDS,
    real_time: bool = False,
    only_replies: bool = False,
) -> Findings:
    """One run in `folder`, which must be empty. At its end the service is left alone until it rests, or has ended no
    job for `drain` seconds.

    `real_time`: leases of 30 s, as users have them. `only_replies`: nothing dies and no lease runs out, but replies of
    Redis are lost all the time, the first two of each script among them; then everything has to happen exactly once.
    """
    valkey = Valkey(folder / "redis", durable=mutant != "aof off")
    history, receiver = History(folder / "history.jsonl"), Receiver(seed, fails=0.0 if only_replies else 0.2)
    valkey.comes()
    losses = Losses(first=2, rate=0.05, seed=seed) if only_replies else Losses(seed=seed)
    proxy = LossyProxy(valkey.port, losses, seed=seed)
    environment = {
        "DARKROOM_REDIS_URL": proxy.url,
        "DARKROOM_WEBHOOK_PORTS": str(receiver.port),
        "DARKROOM_TEST_STEP": "0.04",
        "DARKROOM_SNAPSHOT_SECONDS": "0.05",
        MUTANT: mutant,
        ORPHAN: REAL_TIME if real_time else str(ORPHAN_MS),
    }
    if mutant == "aof off":
        environment["DARKROOM_REDIS_DURABILITY"] = "ignore"
    if only_replies:
        environment[LEASE] = "3600000"
    fate = {} if only_replies else FATE
    service = Service(folder, fork_server, valkey, fate=fate, seed=seed, environment=environment)
    api_key, key_id = asyncio.run(_a_key(valkey))
    options = {"api_key": api_key, "poison": not only_replies}
    clients = [Client(f"c{n}", service, history, receiver.url, seed=seed * 100 + n, **options) for n in range(4)]
    nemesis = Nemesis(service, valkey, history, losses, seed=seed)
    began = time.monotonic()
    try:
        service.start()
        until(lambda: _is_ready(service))
        for thread in clients if only_replies else (*clients, nemesis):
            thread.start()
        time.sleep(seconds)
        with suppress(TimeoutError):
            until(lambda: sum(len(client.acknowledged) for client in clients) >= ENOUGH)
        nemesis.over.set()
        if not only_replies:
            nemesis.join()
        for client in clients:
            client.over.set()
        _all_said(clients)
        rested = _come_to_rest(valkey, history.path, seconds=drain)
    finally:
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
    valkey.is_killed()
    figures = {
        "seed": seed,
        "mutant": mutant,
        "rested": rested,
        "seconds": round(time.monotonic() - began, 1),
        **nemesis.did,
        "replies lost": proxy.lost.total(),
        "of": dict(proxy.lost),
    }
    findings.figures = figures | {"births": service.births} | findings.figures
    return findings


def _is_ready(service: Service) -> bool:
    try:
        return httpx2.get(f"{service.url}/readyz", **PLAIN, timeout=4).status_code == 200
    except httpx2.TransportError:
        return False


async def _a_key(valkey: Valkey) -> tuple[str, str]:
    """An API key whose limits are never met, so that what is charged to it can be counted; and its id."""
    async with redis.asyncio.Redis(port=valkey.port, decode_responses=True) as client:
        plenty = 10**9
        key, info = await Keyring(client).create(TENANT, requests_per_minute=plenty, cost_per_minute=plenty)
        return key, info.id


def _lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def _all_said(clients: list[Client]) -> None:
    """Every client ends what it is saying; one that gets no answer any more is cut short."""
    ends = time.monotonic() + 15
    for client in clients:
        client.join(max(0.1, ends - time.monotonic()))
    for client in clients:
        client.hurried.set()
        client.join(WAIT_SECONDS)


def _come_to_rest(valkey: Valkey, history: Path, *, seconds: float) -> bool:
    """Wait until nothing is left to do. False when nothing has ended for so long; what is left then, the checker will
    find. However slow a machine is, what it ends gives it time for the rest."""
    acknowledged: set[str] = {
        line["job"]
        for line in map(json.loads, history.read_text().splitlines())
        if line["type"] == "ok" and line.get("what") == "submit"
    }
    ends, least = time.monotonic() + seconds, len(acknowledged) + 1
    while time.monotonic() < ends:
        with suppress(redis.RedisError), valkey.client() as client:
            unfinished = sum(not _is_over(client, job) for job in acknowledged)
            owed = [client.zcard(name) for name in (keys.LEASES, keys.OUTBOX, keys.ORPHANS)]
            if not unfinished and not any(owed) and not any(map(client.zcard, client.scan_iter(f"{keys.QUEUED}*"))):
                return True
            if unfinished < least:
                ends, least = time.monotonic() + seconds, unfinished
        time.sleep(0.1)
    return False


def _is_over(client: redis.Redis, job: str) -> bool:
    return client.hget(keys.JOB + job, "status") not in ("queued", "running")


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--seed", type=int, default=1)
    options.add_argument("--seconds", type=float, default=60)
    options.add_argument("--real-time", action="store_true", help="leases of 30 s; takes some minutes to come to rest")
    options.add_argument("--only-replies", action="store_true", help="lose replies, kill nothing, forgive nothing")
    options.add_argument("--mutants", action="store_true", help="each mutant, until a seed catches it")
    chosen = options.parse_args()
    if chosen.mutants:
        return sum(not _caught(name, chosen.seed, chosen.seconds) for name in mutants.NAMES)
    how = {"real_time": chosen.real_time, "only_replies": chosen.only_replies}
    return len(_show(chosen.seed, chosen.seconds, "none", **how).violations)


def _caught(mutant: str, seed: int, seconds: float) -> bool:
    only_replies = mutant in mutants.OF_REPLIES
    return any(mutants.convicts(_show(seed + n, seconds, mutant, only_replies=only_replies)) for n in range(3))


def _show(seed: int, seconds: float, mutant: str, *, real_time: bool = False, only_replies: bool = False) -> Findings:
    # A job that loses three workers has waited for three leases.
    drain = 25 if mutant != "none" else 400 if real_time else 240
    with tempfile.TemporaryDirectory(prefix="darkroom-chaos-") as folder, closing(ForkServer()) as fork_server:
        how = {"drain": drain, "real_time": real_time, "only_replies": only_replies}
        findings = run(Path(folder), fork_server, seed=seed, seconds=seconds, mutant=mutant, **how)
    said: dict[str, Any] = findings.figures | {"violations": dict(findings.violations), "examples": findings.examples}
    print(json.dumps(said), flush=True)
    return findings


if __name__ == "__main__":
    raise SystemExit(main())
