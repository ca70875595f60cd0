"""All lanes of a model: made when first needed, dropped when idle.

Knows when a lane's buffers and graphs are worth their memory. Knows no requests, and not what a step is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Literal

from worker.engine.compiled import Compile, CompiledDenoiser, is_to_compile
from worker.engine.costs import Costs
from worker.engine.errors import is_out_of_memory
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
        if graphs == "on" and native.denoiser.device.type != "cuda":
            raise ValueError("graphs need a CUDA device; set graphs to auto or off")
        self.native = native
        self.costs = Costs(native)
        self._autoencoder = autoencoder
        self._seats = seats
        self._graphs: Graphs = graphs
        self._lanes: dict[LaneKey, Lane] = {}
        self.compiled: CompiledDenoiser | None = None
        if is_to_compile(compile, native.denoiser.device):
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
                # A lane for rescue captures nothing: nobody has to make place for it.
                graph_memory=None if key.mode is Mode.RESCUE else self._memory_for_graphs(),
                strict=self._graphs == "on",
                # For its shapes alone: steps of others would be filled up to sizes at which they gain nothing.
                compiled=self.compiled if key == self.native else None,
            )
            self._lanes[key] = lane
        return lane

    def seated(self, key: LaneKey, take: Callable[[Lane], int]) -> tuple[Lane, int]:
        """The lane of that key, and the seat that `take` takes there. Where memory is full, once more without the lanes
        in which nobody sits. May raise torch.OutOfMemoryError."""
        try:
            return self._seated(key, take)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
        # Not in the handler: the error's traceback holds what was allocated.
        self.drop_idle()
        return self._seated(key, take)

    def _seated(self, key: LaneKey, take: Callable[[Lane], int]) -> tuple[Lane, int]:
        lane = self.open(key)
        return lane, take(lane)

    def _memory_for_graphs(self) -> GraphMemory | None:
        """Of another lane. Of those that have some and are empty, the one that has been so for longest makes place; not
        the native one, which warm-up captured. None if nobody does."""
        captured = {key: lane for key, lane in self._lanes.items() if lane.captures}
        if len(captured) < WITH_GRAPHS:
            return self._graph_memory
        # `idle_since` is as old as the last sweep: somebody may sit there by now.
        empty = {key: lane.idle_since for key, lane in captured.items() if lane.is_empty and key != self.native}
        idle = {key: since for key, since in empty.items() if since is not None}
        if not idle:
            return None
        self._drop([min(idle, key=lambda key: idle[key])])
        return self._graph_memory

    @cached_property
    def _graph_memory(self) -> GraphMemory | None:
        """Made with the first lane, when the device is the current one. None where no steps are captured."""
        device = self.native.denoiser.device
        return GraphMemory(device) if self._graphs != "off" and device.type == "cuda" else None

    def drop_idle(self) -> bool:
        """To make room: drop all in which nobody sits, the native one as well. Were there any?"""
        for lane in self._lanes.values():
            lane.drop_sides()
        return self._drop([key for key, lane in self._lanes.items() if lane.is_empty])

    def sweep(self, now: float) -> None:
        """Drop lanes that have been empty for IDLE_SECONDS, and those for rescue at once. The native one stays where
        its steps are captured."""
        idle: list[LaneKey] = []
        for key, lane in self._lanes.items():
            lane.drop_sides()
            if not lane.is_empty:
                lane.idle_since = None
                continue
            lane.idle_since = now if lane.idle_since is None else lane.idle_since
            if key == self.native and lane.captures:
                # What warm-up captured: whoever comes after a pause should not wait for it again.
                continue
            if key.mode is Mode.RESCUE or now - lane.idle_since >= IDLE_SECONDS:
                idle.append(key)
        self._drop(idle)

    def _drop(self, keys: Sequence[LaneKey]) -> bool:
        """Were there any?"""
        for key in keys:
            del self._lanes[key]
        if keys and self._graph_memory is not None:
            self._graph_memory.rooms += 1
        return bool(keys)
