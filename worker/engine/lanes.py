"""All lanes of a model: made when first needed, dropped when idle.

Knows when a lane's buffers and graphs are worth their memory. Knows no requests, and not what a step is.
"""

from __future__ import annotations

from functools import cached_property
from typing import Literal

from worker.engine.compiled import Compile, CompiledDenoiser
from worker.engine.costs import Costs
from worker.engine.family import Autoencoder
from worker.engine.graphs import GraphMemory
from worker.engine.lane import Lane
from worker.engine.rows import LaneKey, Mode

Graphs = Literal["auto", "on", "off"]

IDLE_SECONDS = 30.0
"""How long an empty lane keeps its buffers and graphs: sizes come back more often than not."""

WITH_GRAPHS = 16
"""Lanes that capture their steps, at most: with the buffers of each graph, and what the driver keeps for it, many of
them take memory that steps need. Another one launches its steps kernel by kernel."""


class Lanes:
    """All lanes of one model. `native` is the lane of a picture of the model's own size."""

    def __init__(
        self,
        native: LaneKey,
        autoencoder: Autoencoder,
        *,
        seats: int,
        graphs: Graphs = "auto",
        compile: Compile = "off",
    ) -> None:
        on_cuda = native.denoiser.device.type == "cuda"
        if graphs == "on" and not on_cuda:
            raise ValueError("graphs need a CUDA device; set graphs to auto or off")
        self.native = native
        self.costs = Costs(native)
        self._autoencoder = autoencoder
        self._seats = seats
        self._graphs: Graphs = graphs
        self._lanes: dict[LaneKey, Lane] = {}
        self.compiled: CompiledDenoiser | None = None
        if compile == "on" or (compile == "auto" and on_cuda):
            self.compiled = CompiledDenoiser(native.denoiser, strict=compile == "on")

    @property
    def picture_seconds(self) -> float:
        """What a guided step and a decode of the native size are expected to take; 0 where nobody knows."""
        return self.costs.step_seconds(self.native, 2) + self.costs.decode_seconds(self.native, 1)

    def open(self, key: LaneKey) -> Lane:
        """The lane of that key, with its buffers in place; for a rescue, with a float32 copy of the model that lives as
        long. May raise torch.OutOfMemoryError."""
        lane = self._lanes.get(key)
        if lane is None:
            lane = Lane(
                key,
                self._autoencoder,
                seats=self._seats,
                costs=self.costs,
                graph_memory=self._graph_memory if self._has_room_for_graphs() else None,
                strict=self._graphs == "on",
                compiled=self.compiled if key.denoiser is self.native.denoiser and key.mode is Mode.SHARED else None,
            )
            self._lanes[key] = lane
        return lane

    def _has_room_for_graphs(self) -> bool:
        """Of another lane; of those that have some and are empty, the one that has been so for longest makes place."""
        captured = [key for key, lane in self._lanes.items() if lane.captures]
        if len(captured) < WITH_GRAPHS:
            return True
        idle = {key: since for key in captured if (since := self._lanes[key].idle_since) is not None}
        if not idle:
            return False
        del self._lanes[min(idle, key=lambda key: idle[key])]
        return True

    @cached_property
    def _graph_memory(self) -> GraphMemory | None:
        """Made with the first lane, when the device is the current one. None where no steps are captured."""
        device = self.native.denoiser.device
        return GraphMemory(device) if self._graphs != "off" and device.type == "cuda" else None

    def sweep(self, now: float, *, idle_seconds: float = IDLE_SECONDS) -> bool:
        """Drop lanes that have been empty for `idle_seconds` seconds, and those for rescue at once. Were there any? The
        native one stays where its steps are captured, unless `idle_seconds` is 0."""
        before = len(self._lanes)
        for key, lane in list(self._lanes.items()):
            lane.drop_sides()
            if not lane.is_empty:
                lane.idle_since = None
                continue
            lane.idle_since = now if lane.idle_since is None else lane.idle_since
            if key == self.native and lane.captures and idle_seconds:
                # What warm-up captured: whoever comes after a pause should not wait for it again.
                continue
            if key.mode is Mode.RESCUE or now - lane.idle_since >= idle_seconds:
                del self._lanes[key]
        has_dropped = len(self._lanes) < before
        if has_dropped and self._graph_memory is not None:
            self._graph_memory.rooms += 1
        return has_dropped
