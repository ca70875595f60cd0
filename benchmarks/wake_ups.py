"""What word of a job costs Redis, by how it is spread and to how many workers: `python -m benchmarks.wake_ups`.

Four ways: as the scripts do it (an idle worker is picked, and told by a key on which it alone blocks), one key on which
all block and which Redis gives to one of them, a stream on which all block, a channel to which all subscribe. Listeners
are connections that read what comes and listen again; they ask for nothing, which would cost more. Knows Redis'
protocol; refuses to know jobs.
"""

from __future__ import annotations

import argparse
import selectors
import socket
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import hiredis
import redis

from app.contract.redis import keys
from app.contract.redis.scripts import source
from benchmarks.redis_cost import valkey
from benchmarks.report import Column, Report, add_option

Command = tuple[Any, ...]
MODEL = "measured"


@dataclass(frozen=True, slots=True)
class Way:
    """How the n-th worker listens, after a reply or for the first time (None), and how the word is said."""

    listen: Callable[[int, Any], list[Command]]
    say: Callable[[redis.Redis], Any]
    tells_all: bool


def _as_idle_workers_do(n: int, reply: Any) -> list[Command]:
    entered = ("ZADD", keys.IDLE + MODEL, int(time.time() * 1000), f"w{n}")
    return [entered, ("BZPOPMIN", f"{keys.WORD}w{n}", 60)]


def _tell_one(client: redis.Redis) -> None:
    client.register_script(source("pass_on"))(args=[MODEL])


def _after_the_last(n: int, reply: Any) -> list[Command]:
    last = reply[0][1][-1][0] if reply else "$"
    return [("XREAD", "BLOCK", 60_000, "STREAMS", "words", last)]


WAYS = {
    "a key for each, one is told": Way(_as_idle_workers_do, _tell_one, tells_all=False),
    "one key, one is told": Way(
        lambda n, reply: [("BZPOPMIN", "word", 60)], lambda to: to.zadd("word", {"": 0}), tells_all=False
    ),
    "a stream, all are told": Way(_after_the_last, lambda to: to.xadd("words", {"": ""}, maxlen=10), tells_all=True),
    "a channel, all are told": Way(
        lambda n, reply: [] if reply else [("SUBSCRIBE", "words")], lambda to: to.publish("words", ""), tells_all=True
    ),
}
COLUMNS = {
    "way": Column(label="word of a job, over"),
    "listeners": Column(label="listeners"),
    "cost": Column(label="processor time of Redis for a word, ms", format=".3f"),
    "woken": Column(label="woken by a word", format=".0f"),
}


class Listeners:
    """Connections that listen in one way, and count what they hear."""

    def __init__(self, way: Way, port: int, count: int) -> None:
        self._way, self.heard = way, 0
        self._ready = selectors.DefaultSelector()
        self._all = [socket.create_connection(("127.0.0.1", port)) for _ in range(count)]
        for n, each in enumerate(self._all):
            self._ready.register(each, selectors.EVENT_READ, (n, hiredis.Reader()))
            self._listen(each, n, None)

    def _listen(self, each: socket.socket, n: int, reply: Any) -> None:
        each.sendall(b"".join(hiredis.pack_command(command) for command in self._way.listen(n, reply)))

    def hear(self, until: int) -> None:
        """Read until so many words were heard, and listen again after each."""
        while self.heard < until:
            for key, _ in self._ready.select(1):
                each, (n, replies) = key.fileobj, key.data
                replies.feed(each.recv(4096))  # type: ignore[union-attr]
                while (reply := replies.gets()) is not False:
                    # Not what ZADD and SUBSCRIBE answer.
                    if isinstance(reply, list) and reply[0] != b"subscribe":
                        self.heard += 1
                        self._listen(each, n, reply)  # type: ignore[arg-type]

    def close(self) -> None:
        self._ready.close()
        for each in self._all:
            each.close()


def measure(way: Way, *, listeners: int, words: int) -> tuple[float, float]:
    """ms of Redis for a word, listening again included, and how many heard it."""
    with valkey() as url, redis.Redis.from_url(url) as client:
        client.config_set("maxclients", listeners + 100)
        client.zadd(keys.QUEUED + MODEL, {"a job": 0})
        hearing = Listeners(way, int(url.rsplit(":", 1)[1]), listeners)
        _until_all_listen(client, listeners)
        before = spent(client)
        for n in range(1, words + 1):
            way.say(client)
            hearing.hear(n * (listeners if way.tells_all else 1))
        _until_all_listen(client, listeners)
        cost = (spent(client) - before) / words
        hearing.close()
        return cost, hearing.heard / words


def _until_all_listen(client: redis.Redis, listeners: int) -> None:
    info: Any = client.info("clients")
    while info["blocked_clients"] + info["pubsub_clients"] < listeners:
        time.sleep(0.05)
        info = client.info("clients")


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
            runs = [measure(way, listeners=listeners, words=options.words) for _ in range(options.rounds)]
            cost, woken = (statistics.median(each) for each in zip(*runs, strict=True))
            report.add("words", COLUMNS, way=name, listeners=listeners, cost=cost, woken=woken)


if __name__ == "__main__":
    main()
