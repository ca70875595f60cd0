"""What word of a job costs Redis, by how it is spread and to how many workers: `python -m benchmarks.wake_ups`.

Three ways: a sorted set of one member that workers block on (as worker/wakeups.py does: Redis gives it to one of them),
a stream that they block on, and a channel that they subscribe to. Listeners are connections that read what comes and
block again; they ask for nothing, which would cost more. Knows Redis' protocol; refuses to know jobs.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import hiredis
import redis

from benchmarks.redis_cost import valkey
from benchmarks.report import Column, Report, add_option

BLOCK_MS = 60_000


@dataclass(frozen=True, slots=True)
class Way:
    """How workers listen, whether they have to say so again after each word, and how the word is said."""

    listen: tuple[Any, ...]
    blocks: bool
    say: Callable[[redis.Redis], Any]


WAYS = {
    "a sorted set, one is told": Way(("BZPOPMIN", "word", BLOCK_MS / 1000), True, lambda to: to.zadd("word", {"": 0})),
    "a stream, all are told": Way(
        ("XREAD", "BLOCK", BLOCK_MS, "STREAMS", "words", "$"), True, lambda to: to.xadd("words", {"": ""}, maxlen=1)
    ),
    "a channel, all are told": Way(("SUBSCRIBE", "words"), False, lambda to: to.publish("words", "")),
}
COLUMNS = {
    "way": Column(label="word of a job, over"),
    "listeners": Column(label="listeners"),
    "cost": Column(label="processor time of Redis for a word, ms", format=".3f"),
    "woken": Column(label="woken by a word", format=".0f"),
}


class Listeners:
    """Connections that listen in one way, and count what they hear."""

    def __init__(self, way: Way) -> None:
        self._way, self.heard = way, 0
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self, port: int, count: int) -> None:
        for _ in range(count):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(hiredis.pack_command(self._way.listen))
            self._tasks.append(asyncio.create_task(self._listen(reader, writer)))

    async def _listen(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        replies = hiredis.Reader()
        while data := await reader.read(4096):
            replies.feed(data)
            while (reply := replies.gets()) is not False:
                self.heard += not (isinstance(reply, list) and reply[0] == b"subscribe")
                if self._way.blocks:
                    writer.write(hiredis.pack_command(self._way.listen))

    async def until(self, heard: int) -> None:
        while self.heard < heard:
            await asyncio.sleep(0.002)

    def stop(self) -> None:
        for task in self._tasks:
            task.cancel()


async def measure(way: Way, *, listeners: int, words: int) -> tuple[float, float]:
    """ms of Redis for a word, once all listen again, and how many heard it."""
    with valkey() as url, redis.Redis.from_url(url) as client:
        client.config_set("maxclients", listeners + 100)
        hearing = Listeners(way)
        await hearing.start(int(url.rsplit(":", 1)[1]), listeners)
        woken = 1 if way.listen[0] == "BZPOPMIN" else listeners
        info: Any = client.info("clients")
        while way.blocks and info["blocked_clients"] < listeners:
            await asyncio.sleep(0.05)
            info = client.info("clients")
        before = spent(client)
        for n in range(1, words + 1):
            way.say(client)
            await hearing.until(n * woken)
        await asyncio.sleep(0.2)
        cost = (spent(client) - before) / words
        hearing.stop()
        return cost, hearing.heard / words


def spent(client: redis.Redis) -> float:
    """ms of processor time of Redis' main thread so far."""
    info: Any = client.info("cpu")
    return 1000 * float(info["used_cpu_user_main_thread"] + info["used_cpu_sys_main_thread"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--listeners", type=int, nargs="+", default=[1, 100, 1000])
    parser.add_argument("--words", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=3)
    add_option(parser)
    options = parser.parse_args()
    report = Report("wake_ups", options.json)
    for listeners in options.listeners:
        for name, way in WAYS.items():
            runs = [asyncio.run(measure(way, listeners=listeners, words=options.words)) for _ in range(options.rounds)]
            cost, woken = (statistics.median(each) for each in zip(*runs, strict=True))
            report.add("words", COLUMNS, way=name, listeners=listeners, cost=cost, woken=woken)


if __name__ == "__main__":
    main()
