"""A wire to Redis that loses replies: the command arrives and runs, its answer does not, and the connection breaks.

Knows the shape of commands, and which script a digest names. Refuses to know what a script does.
"""

from __future__ import annotations

import asyncio
import hashlib
import random
import threading
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path

from app.contract.redis import scripts
from tests.waiting import until

LONGEST_HANG = 1.0
"""Seconds between the reply that is lost and the end of its connection. A gateway gives a command 1.5 s."""

_OVER = (OSError, asyncio.IncompleteReadError)


class LossyProxy:
    """Listens on `port` and passes on to a Redis, in a thread of its own. `loses` decides by name which replies go.

    Names are those of the scripts, and "exec" for the end of a transaction. `lost` counts.
    """

    def __init__(self, redis_port: int, loses: Callable[[str], bool], *, seed: int = 0) -> None:
        self.port = 0
        self.lost: Counter[str] = Counter()
        self._redis_port = redis_port
        self._loses = loses
        self._chance = random.Random(seed)
        self._names: dict[bytes, str] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        until(lambda: self.port)

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    def _run(self) -> None:
        server = self._loop.run_until_complete(asyncio.start_server(self._begin, "127.0.0.1", 0))
        self.port = server.sockets[0].getsockname()[1]
        self._loop.run_forever()
        self._loop.run_until_complete(self._end(server))
        self._loop.close()

    async def _end(self, server: asyncio.Server) -> None:
        server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        # Closed transports let go of their sockets in the loop's next round.
        await asyncio.sleep(0)

    def _begin(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = self._loop.create_task(self._serve(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            answers, commands = await asyncio.open_connection("127.0.0.1", self._redis_port)
        except OSError:
            writer.close()
            return
        losing = asyncio.Event()
        try:
            async with asyncio.TaskGroup() as both:
                both.create_task(self._ask(reader, commands, losing))
                both.create_task(self._answer(answers, writer, losing))
        except* _OVER:
            pass
        finally:
            commands.close()
            writer.close()

    async def _ask(self, reader: asyncio.StreamReader, commands: asyncio.StreamWriter, losing: asyncio.Event) -> None:
        while True:
            raw, parts = await _command(reader)
            name = self._name(parts)
            if name and self._loses(name):
                self.lost[name] += 1
                losing.set()
            commands.write(raw)
            await commands.drain()

    async def _answer(self, answers: asyncio.StreamReader, writer: asyncio.StreamWriter, losing: asyncio.Event) -> None:
        while data := await answers.read(65_536):
            if losing.is_set():
                # A third of the connections break at once, the others after they have kept their caller waiting, while
                # others may undo what was done.
                await asyncio.sleep(max(0.0, self._chance.uniform(-LONGEST_HANG / 2, LONGEST_HANG)))
                break
            writer.write(data)
            await writer.drain()
        raise ConnectionResetError

    def _name(self, parts: list[bytes]) -> str | None:
        command = parts[0].upper()
        if command == b"SCRIPT" and parts[1].upper() == b"LOAD":
            self._names[hashlib.sha1(parts[2]).hexdigest().encode()] = _name_of(parts[2].decode())
        if command == b"EVALSHA":
            return self._names.get(parts[1])
        return "exec" if command == b"EXEC" else None


class Losses:
    """Which replies are lost: the first few of each name, to spare none, and a part of all others; of some
    names another part: `often`."""

    def __init__(
        self, *, first: int = 0, rate: float = 0.0, often: Mapping[str, float] | None = None, seed: int = 0
    ) -> None:
        self.rate = rate
        self._often = often or {}
        self._first = first
        self._seen: Counter[str] = Counter()
        self._chance = random.Random(seed)

    def __call__(self, name: str) -> bool:
        self._seen[name] += 1
        return self._seen[name] <= self._first or self._chance.random() < self._often.get(name, self.rate)


async def _command(reader: asyncio.StreamReader) -> tuple[bytes, list[bytes]]:
    """One command, as it came and in its parts."""
    raw = head = await reader.readuntil(b"\r\n")
    parts = []
    for _ in range(int(head[1:])):
        size = await reader.readuntil(b"\r\n")
        part = await reader.readexactly(int(size[1:]) + 2)
        raw += size + part
        parts.append(part[:-2])
    return raw, parts


def _name_of(text: str) -> str:
    """The script whose first line is in this text, mutated or not. What scripts share is in every one."""
    for file in Path(scripts.__file__).parent.glob("*.lua"):
        if file.stem not in (*scripts.OF_ALL, "outbox") and file.read_text().partition("\n")[0] in text:
            return file.stem
    return "unknown"
