"""CUDA graphs of whole denoising steps: one launch instead of several thousand, for batches of a few fixed sizes.

A step is captured when its size first comes up, or more of what only some rows have than before, on seats that are
nobody's, and replayed from then on. Knows the step's inputs by their shapes and nothing of what they mean.
"""

from __future__ import annotations

from typing import Any
from weakref import WeakSet

import structlog
import torch

from worker.engine.denoise import Plan, StaticStep, Used

log = structlog.get_logger()

BUCKETS = (2, 4, 6, 8, 10, 12, 14, 16, 20, 24, 28, 32, 40, 48, 64)
"""Rows of a captured step. Batches in between are filled up, by a quarter at most from 8 rows on; larger ones are
launched kernel by kernel. Of graphs that share their memory, more cost the time of their captures alone."""

WARM_UPS = 3
"""Runs before the capture, in which libraries choose their kernels and take their workspaces."""


class GraphMemory:
    """What the graphs of all lanes share: memory, and the stream they are captured on.

    They may, because one is replayed at a time and its only output is copied at once. What an earlier graph works in
    serves a later one as far as it is large enough, so the largest should be captured first: on an H100 seven graphs of
    up to 32 rows then took 2.3 GiB, 2.8 in the other order.
    """

    def __init__(self, device: torch.device) -> None:
        self.stream = torch.cuda.Stream(device)
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
        self._captured: dict[tuple[torch.Size, Used], _Captured | None] = {}

    def forget(self) -> None:
        """All graphs: a step is captured again when its size comes up."""
        self._captured.clear()

    def __call__(
        self, index: torch.Tensor, numbers: torch.Tensor, noise: torch.Tensor, used: Used = ()
    ) -> torch.Tensor:
        which = index.shape, used
        if which not in self._captured:
            self._captured[which] = self._capture(len(noise), used)
        captured = self._captured[which]
        return self._step(index, numbers, noise, used) if captured is None else captured.replay(index, numbers, noise)

    def _capture(self, rows: int, used: Used) -> _Captured | None:
        """Of a filled-up batch: as many samples as rows."""
        if rows not in BUCKETS:
            return None
        try:
            return _Captured(self._step, rows, used, self._memory)
        except RuntimeError as error:
            if self._strict:
                raise
            log.warning("a step cannot be captured and is launched kernel by kernel", rows=rows, reason=str(error))
            return None


class _Captured:
    def __init__(self, step: StaticStep, rows: int, used: Used, memory: GraphMemory) -> None:
        side = memory.stream
        device = step.state.device
        shape = step.state.shape[2:]
        self._inputs = Plan((), rows=rows, samples=rows, latent_shape=(shape[0], shape[1], shape[2])).on(device)
        current = torch.cuda.current_stream(device)
        side.wait_stream(current)
        self._graph = torch.cuda.CUDAGraph()
        # Around the capture as well: one that fails would leave its stream the thread's current one.
        with torch.cuda.stream(side):
            for _ in range(WARM_UPS):
                step(*self._inputs, used)
            with torch.cuda.graph(self._graph, pool=memory.pool, stream=side):
                self._finite = step(*self._inputs, used)
        current.wait_stream(side)
        memory.note(self)

    def replay(self, *inputs: torch.Tensor) -> torch.Tensor:
        for own, given in zip(self._inputs, inputs, strict=True):
            own.copy_(given, non_blocking=True)
        self._graph.replay()
        # The next replay writes over it, before the host has read it.
        return self._finite.clone()
