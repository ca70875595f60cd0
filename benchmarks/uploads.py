"""Polls while photos come in: `python -m benchmarks.uploads`.

A figure, never a gate. Prints markdown: how long status polls of a gateway take by themselves, and while a hundred
photos are sent in at once by another process. Both in one run, over one machine that carries all of it: the sender has
its photos ready, and is nicer than whoever polls and is polled.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import json
import multiprocessing
import os
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.load_client import Address, Tally, Wires, open_loop
from benchmarks.load_servers import PARAMETERS, Server, server
from benchmarks.report import Column, Report, add_option

WARM_SECONDS = 3.0

SENDERS_NICENESS = 5
"""It stands for machines elsewhere, and is not to take a processor from those that are measured."""


POLLS = {
    "polls": Column(label="polls"),
    "count": Column(label="count"),
    "p50_ms": Column(label="p50, ms", format=".1f"),
    "p99_ms": Column(label="p99, ms", format=".1f"),
}


def photo(megapixels: float) -> bytes:
    """A JPEG of so many megapixels, about as large as a camera's."""
    height = round((megapixels * 1e6 * 3 / 4) ** 0.5)
    coarse = np.random.default_rng(0).integers(0, 255, (height // 8, height // 6, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(coarse).resize((height * 4 // 3, height)).save(file, "JPEG", quality=90)
    return file.getvalue()


def send_all(address: Address, data: bytes, count: int) -> tuple[Counter[int], float]:
    """How many uploads were answered with which status, and the seconds it took. All are sent at once."""
    os.nice(SENDERS_NICENESS)
    head = f"POST /v1/inputs HTTP/1.1\r\nHost: {address.host}:{address.port}\r\nContent-Type: image/jpeg\r\n"
    head += f"Content-Length: {len(data) + 1}\r\n\r\n"
    # A byte behind the picture: another file each time, which is decoded anew.
    requests = [head.encode() + data + bytes([number % 256]) for number in range(count)]

    async def one(request: bytes) -> int:
        wire = await address.wire()
        try:
            return (await wire.ask(request)).status
        finally:
            wire.close()

    async def all_at_once() -> list[int]:
        return await asyncio.gather(*map(one, requests))

    began = time.perf_counter()
    return Counter(asyncio.run(all_at_once())), time.perf_counter() - began


async def polls(of: Server, options: argparse.Namespace, data: bytes) -> tuple[Tally, Tally, Counter[int], float]:
    """By themselves, and from the moment that the uploads begin until they are over."""
    submit = of.address.post("/v1/jobs", PARAMETERS)
    loop = asyncio.get_running_loop()
    async with Wires(of.address, 64) as wires:
        ids = [json.loads((await wires.ask(submit)).body)["id"] for _ in range(50)]
        gets = [of.address.get(f"/v1/jobs/{job_id}") for job_id in ids]

        async def polled(seconds: float) -> Tally:
            return await open_loop(options.polls, seconds, lambda number: wires.ask(gets[number % len(gets)]))

        with multiprocessing.get_context("spawn").Pool(1) as pool:
            # A process that starts takes a second of a processor, and belongs to no upload.
            pool.apply(time.sleep, (0,))
            await polled(WARM_SECONDS)
            quiet, beside = await polled(options.seconds), Tally()
            sent = loop.run_in_executor(None, pool.apply, send_all, (of.address, data, options.uploads))
            while not sent.done():
                for status, took in (await polled(1.0)).took_ms.items():
                    beside.took_ms[status] += took
            answers, seconds = await sent
    return quiet.only(200), beside.only(200), answers, seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--uploads", type=int, default=100)
    parser.add_argument("--megapixels", type=float, default=12)
    parser.add_argument("--polls", type=float, default=100, help="a second")
    parser.add_argument("--seconds", type=float, default=20, help="of polls by themselves")
    parser.add_argument("--processes", type=int, default=2, help="of the gateway")
    add_option(parser)
    options = parser.parse_args()
    report, data = Report("uploads", options.json), photo(options.megapixels)
    with (
        tempfile.TemporaryDirectory() as folder,
        server("gateway", Path(folder) / "data", processes=options.processes) as running,
    ):
        quiet, beside, answers, seconds = asyncio.run(polls(running, options, data))
    report.note(f"{options.uploads} JPEGs of {len(data) / 2**20:.1f} MiB at once: {dict(answers)} in {seconds:.1f} s")
    for what, tally in (("by themselves", quiet), ("beside the uploads", beside)):
        p50, p99 = (tally.quantile(share, 200) for share in (0.5, 0.99))
        report.add("polls", POLLS, polls=what, count=tally.count(200), p50_ms=p50, p99_ms=p99)


if __name__ == "__main__":
    main()
