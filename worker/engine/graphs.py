"""CUDA graphs of whole denoising steps: one launch instead of several thousand, for batches of a few fixed sizes.

A step is captured when its size first comes up, on seats that are nobody's, and replayed from then on. Knows the step's
inputs by their shapes and nothing of what they mean.
"""

from __future__ import annotations

from typing import Any

import structlog
import torch

from worker.engine.denoise import Plan, StaticStep

log = structlog.get_logger()

BUCKETS = (2, 4, 8, 12, 16, 24, 32)
"""Rows of a captured step. Batches in between are filled up; larger ones are launched kernel by kernel."""

WARM_UPS = 3
"""Runs before the capture, in which libraries choose their kernels and take their workspaces."""


class StepGraphs:
    """The step, called like the step itself. `strict`: a step that cannot be captured raises, and is not launched."""

    def __init__(self, step: StaticStep, *, strict: bool = False) -> None:
        self._step = step
        self._strict = strict
        self._pool = torch.cuda.graph_pool_handle()
        self._stream = torch.cuda.Stream(step.state.device)
        self._captured: dict[torch.Size, _Captured | None] = {}

    def __call__(self, index: torch.Tensor, numbers: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        if index.shape not in self._captured:
            self._captured[index.shape] = self._capture(len(noise))
        captured = self._captured[index.shape]
        return self._step(index, numbers, noise) if captured is None else captured.replay(index, numbers, noise)

    def _capture(self, rows: int) -> _Captured | None:
        """Of a filled-up batch: as many samples as rows."""
        if rows not in BUCKETS:
            return None
        try:
            return _Captured(self._step, rows, self._pool, self._stream)
        except RuntimeError as error:
            if self._strict:
                raise
            log.warning("a step cannot be captured and is launched kernel by kernel", rows=rows, reason=str(error))
            return None


class _Captured:
    def __init__(self, step: StaticStep, rows: int, pool: Any, side: torch.cuda.Stream) -> None:
        device = step.state.device
        shape = step.state.shape[2:]
        self._inputs = Plan((), rows=rows, samples=rows, latent_shape=(shape[0], shape[1], shape[2])).on(device)
        current = torch.cuda.current_stream(device)
        side.wait_stream(current)
        self._graph = torch.cuda.CUDAGraph()
        # Around the capture as well: one that fails would leave its stream the thread's current one.
        with torch.cuda.stream(side):
            for _ in range(WARM_UPS):
                step(*self._inputs)
            with torch.cuda.graph(self._graph, pool=pool, stream=side):
                self._finite = step(*self._inputs)
        current.wait_stream(side)

    def replay(self, *inputs: torch.Tensor) -> torch.Tensor:
        for own, given in zip(self._inputs, inputs, strict=True):
            own.copy_(given, non_blocking=True)
        self._graph.replay()
        # The next replay writes over it, before the host has read it.
        return self._finite.clone()
