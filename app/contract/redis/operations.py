"""What an operator changes: models paused and resumed, workers drained; and the audit, with a line for each change.

Knows the scripts. Refuses to know who may: that was decided before. What is changed elsewhere is noted here too.
"""

from __future__ import annotations

from typing import Any, Literal, cast

import redis.asyncio

from app.contract.messages.audit import Change, Entry, Operator
from app.contract.redis.job_lists import BEGINNING
from app.contract.redis.scripts import source

Drain = Literal["draining", "left", "missing", "deaf"]
"""`left`: it has done so, or died, since it was told. `deaf`: a worker of an earlier release cannot be told."""

Undrain = Literal["serving", "starting", "left", "missing"]
"""The last two: it is too late."""


class Operations:
    """`client` must decode responses. Methods raise redis.RedisError while Redis is away and may be called again."""

    def __init__(self, client: redis.asyncio.Redis) -> None:
        names = ("pause", "resume", "drain", "undrain", "audit", "newest")
        self._scripts: Any = {name: client.register_script(source(name)) for name in names}

    async def pause(
        self, model: str, by: Operator, *, accepts: bool, reason: str = "", seconds: float | None = None
    ) -> bool:
        """Let nobody claim jobs of the model, for so long or until `resume`. False if it is not known.

        Paused before, it goes on since then, in the way that is said now.
        """
        length = "" if seconds is None else round(seconds * 1000)
        outcome = "jobs come in and wait" if accepts else "jobs are refused"
        outcome += "" if seconds is None else f", for {seconds:g} s"
        outcome += f": {reason}" if reason else ""
        line = Change.by(by, "pause", model, outcome).line()
        return bool(await self._scripts["pause"](args=[model, int(accepts), reason, length, line]))

    async def resume(self, model: str, by: Operator) -> bool:
        """Let its jobs be claimed again; nothing changes where they are. False if it is not known."""
        line = Change.by(by, "resume", model, "claimed again").line()
        return bool(await self._scripts["resume"](args=[model, line]))

    async def drain(self, worker: str, by: Operator) -> Drain:
        """Have a worker finish what it has, take nothing more and leave."""
        line = Change.by(by, "drain", worker, "leaves with its last job").line()
        return cast(Drain, await self._scripts["drain"](args=[worker, line]))

    async def undrain(self, worker: str, by: Operator) -> Undrain:
        """Have a drained worker take jobs again; nothing changes for one that is not drained."""
        line = Change.by(by, "undrain", worker, "takes jobs again").line()
        return cast(Undrain, await self._scripts["undrain"](args=[worker, line]))

    async def note(self, change: Change) -> None:
        """A line of the audit for what was changed elsewhere."""
        await self._scripts["audit"](args=[change.line()])

    async def begin(self, change: Change) -> str:
        """A line of the audit for a change of many steps, before the first of them: should whoever makes it die, it is
        known who had begun. `end` wants what this answers."""
        line = change.line()
        await self._scripts["audit"](args=[line])
        return line

    async def end(self, line: str, outcome: str) -> None:
        """What came of it, in the place of what was begun; nothing is left of it where nothing did."""
        await self._scripts["audit"](args=[Change.ended(line, outcome) if outcome else "", line])

    async def audit(self, *, limit: int, before: tuple[int, str] | None = None) -> list[Entry]:
        """What was changed, the latest first; `before` is moment and id of the last line seen."""
        found = await self._scripts["newest"](args=["audit", *(before or BEGINNING), limit])
        return [Entry.read(line, int(at)) for line, at in zip(found[::2], found[1::2], strict=True)]
