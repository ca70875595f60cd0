"""CUDA graphs of whole denoising steps: one launch instead of several thousand, for batches of a few fixed sizes.

A step is captured when its size first comes up, or more of what only some rows have than before, on seats that are
nobody's, and replayed from then on. Knows the step's inputs by their shapes and nothing of what they mean.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any
from weakref import WeakSet

import structlog
import torch

from worker.engine.deep import Depth
from worker.engine.denoise import Plan, StaticStep, Used, sizes
from worker.engine.errors import is_lost_device, is_out_of_memory
from worker.engine.sides import SideNetwork, SideRows

log = structlog.get_logger()

BUCKETS = (2, 4, 6, 8, 10, 12, 14, 16, 20, 24, 28, 32, 40, 48, 64)
"""Rows of a captured step. Batches in between are filled up, by a quarter at most from 8 rows on; larger ones are
launched kernel by kernel. Of graphs that share their memory, more cost the time of their captures alone."""

WARM_UPS = 3
"""Runs before the capture, in which libraries choose their kernels and take their workspaces."""

UNWRITTEN = 2
"""Is neither of the two bytes that a bool is written as."""

WITH_SIDES = 32
"""Captured steps of a lane that ask side networks, at most: there are many ways to share a step, each takes some 0.2 s
to capture, and one more is launched kernel by kernel."""

Which = tuple[torch.Size, Used, tuple[tuple[SideNetwork, int], ...], Depth]
"""One of a lane's steps: sizes of its inputs, what only some rows have, the rows of each side network, and how much of
the denoiser is asked: one of the outermost layers is a graph of its own, and one that keeps features another."""


class GraphMemory:
    """What the graphs of all lanes share: memory, and the stream they are captured on.

    They may, because one is replayed at a time and its only output is copied at once. What an earlier graph works in
    serves a later one as far as it is large enough, so the largest should be captured first: on an H100 seven graphs of
    up to 32 rows then took 2.3 GiB, 2.8 in the other order.
    """

    def __init__(self, device: torch.device) -> None:
        self.stream = torch.cuda.Stream(device)
        self.rooms = 0
        """Times that memory was given back: a capture that there was none for may be tried again."""
        self.is_checked = False
        """A first graph did something when it was replayed."""
        self._pool = torch.cuda.graph_pool_handle()
        self._graphs: WeakSet[_Captured] = WeakSet()

    @property
    def pool(self) -> Any:
        """Of torch's allocator. Another one when all graphs are gone: torch forgets it with the last of them."""
        if not self._graphs:
            self._pool = torch.cuda.graph_pool_handle()
        return self._pool

    def note(self, graph: _Captured) -> None:
        self._graphs.add(graph)


class StepGraphs:
    """The step, called like the step itself. `strict`: a step that cannot be captured raises, and is not launched."""

    def __init__(self, step: StaticStep, memory: GraphMemory, *, strict: bool = False) -> None:
        self._step = step
        self._strict = strict
        self._memory = memory
        self._captured: dict[Which, _Captured] = {}
        self._without: dict[Which, int] = {}
        """Steps that there was no memory to capture, and `rooms` then."""
        self._is_given_up = False

    def forget(self, networks: Collection[SideNetwork] | None = None) -> None:
        """All graphs, or those that ask one of these side networks. A step is captured again when its sizes come up."""
        for which in list(self._captured):
            if networks is None or any(network in networks for network, _ in which[2]):
                del self._captured[which]

    def __call__(
        self,
        index: torch.Tensor,
        numbers: torch.Tensor,
        used: Used = (),
        sides: Sequence[SideRows] = (),
        depth: Depth = Depth.WHOLE,
    ) -> torch.Tensor:
        which = index.shape, used, tuple(side.signature for side in sides), depth
        captured = self._captured.get(which)
        if captured is None and self._may_capture(which, sides):
            captured = self._capture(which, sizes(index, numbers)[0], sides)
        if captured is None:
            return self._step(index, numbers, used, sides, depth)
        return captured.replay(index, numbers, sides)

    def _may_capture(self, which: Which, sides: Sequence[SideRows]) -> bool:
        if self._is_given_up or self._without.get(which) == self._memory.rooms:
            return False
        return not sides or sum(bool(each[2]) for each in self._captured) < WITH_SIDES

    def _capture(self, which: Which, rows: int, sides: Sequence[SideRows]) -> _Captured | None:
        """Of a filled-up batch: as many samples as rows."""
        if rows not in BUCKETS:
            return None
        try:
            _, used, _, depth = which
            captured = self._captured[which] = _Captured(self._step, rows, (used, sides, depth), self._memory)
            return captured
        except RuntimeError as error:
            if self._strict or is_lost_device(error):
                raise
            if is_out_of_memory(error):
                log.warning("no memory to capture a step; until there is, it is launched kernel by kernel", rows=rows)
                self._without[which] = self._memory.rooms
            else:
                # torch's allocator may take a capture that failed to be still under way, so no other follows it.
                log.warning("a step cannot be captured; this lane's are launched kernel by kernel", reason=str(error))
                self._is_given_up = True
        return None


class _Captured:
    def __init__(
        self,
        step: StaticStep,
        rows: int,
        asked: tuple[Used, Sequence[SideRows], Depth],
        memory: GraphMemory,
    ) -> None:
        used, sides, depth = asked
        side = memory.stream
        device = step.state.device
        self._inputs = Plan((), rows=rows, samples=rows).on(device)
        self._sides = [each.cloned() for each in sides]
        current = torch.cuda.current_stream(device)
        side.wait_stream(current)
        self._graph = torch.cuda.CUDAGraph()
        # Around the capture as well: one that fails would leave its stream the thread's current one.
        with torch.cuda.stream(side):
            for _ in range(WARM_UPS):
                step(*self._inputs, used, self._sides, depth)
            with torch.cuda.graph(self._graph, pool=memory.pool, stream=side):
                self._finite = step(*self._inputs, used, self._sides, depth)
        current.wait_stream(side)
        if not memory.is_checked:
            self._check()
            memory.is_checked = True
        memory.note(self)

    def _check(self) -> None:
        """Raises RuntimeError if a replay does nothing: so it is with what was captured on another device's stream.
        Waits for it."""
        answers = self._finite.view(torch.uint8)
        answers.fill_(UNWRITTEN)
        self._graph.replay()
        if not bool((answers != UNWRITTEN).all()):
            raise RuntimeError("what was captured does nothing")

    def replay(self, index: torch.Tensor, numbers: torch.Tensor, sides: Sequence[SideRows]) -> torch.Tensor:
        for own, given in zip(self._inputs, (index, numbers), strict=True):
            own.copy_(given, non_blocking=True)
        for own_side, asked in zip(self._sides, sides, strict=True):
            own_side.fill(asked)
        # The next replay writes over the graph's own, before the host has read it. Room first: behind the replay the
        # samples have moved, and nothing may raise.
        finite = torch.empty_like(self._finite)
        self._graph.replay()
        return finite.copy_(self._finite)
