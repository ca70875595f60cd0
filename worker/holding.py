"""The one model of several that is in memory: opened, put to rest, and closed, with the scorer beside it.

Knows how a model is loaded and which roads lead to it. Refuses to know when that is done: swapping.py.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from app.contract.messages.card import ModelCard
from worker.loading import open_drawing
from worker.model_folders import KnownFolder
from worker.models.assembly import whole_model
from worker.models.place import place_of
from worker.open_model import OpenModel, Surroundings, free_memory
from worker.own_thread import OwnThread
from worker.roads import Road
from worker.served import Answering, Drawing
from worker.starting import Starting
from worker.tracing import Traces


class Roads(Protocol):
    """Where claimed jobs come from: worker/intake.py."""

    def serve(self, model: str, road: Road, /) -> None: ...
    def rest(self, model: str, /) -> None: ...
    def resume(self, model: str, /) -> None: ...
    def close_road(self, model: str, /) -> None: ...


class Holding:
    """At most one model. `announce` hears of its card again whenever more is known of it."""

    def __init__(
        self,
        around: Surroundings,
        roads: Roads,
        traces: Traces,
        *,
        answering: Answering | None,
        starting: Starting,
        announce: Callable[[ModelCard], None],
    ) -> None:
        self.model: OpenModel | None = None
        self._around = around
        self._roads = roads
        self._traces = traces
        self._answering = answering
        self._starting = starting
        self._announce = announce
        # One for all: libraries keep what they have on a GPU by thread.
        self._thread = OwnThread("engine")

    def open(self, folder: KnownFolder) -> ModelCard:
        """In memory, warmed up, its jobs claimed. Raises ModelError, AssemblyError, DeviceLost, and what a library does
        with files that nobody has judged."""
        with self._traces.loading(folder.name), self._starting.published():
            self.model = OpenModel(self._load(folder), self._around)
        self.model.begin(self._announce)
        self._roads.serve(folder.name, self.model.road)
        return self.model.card

    def _load(self, folder: KnownFolder) -> Drawing:
        settings = folder.settings.model_copy(update={"model": whole_model(folder.path)})
        try:
            return open_drawing(settings, folder.name, self._starting, answering=self._answering, thread=self._thread)
        except Exception:
            free_memory(place_of(settings.device, settings.dtype).device)
            raise

    def rest(self, model: str) -> None:
        self._roads.rest(model)

    def resume(self, model: str) -> None:
        self._roads.resume(model)

    def is_at_rest(self, model: str) -> bool:
        """Also what is asked of it, and what is still being put away."""
        return not any(claim.spec.model == model for claim in self._around.attempts.claims())

    def close(self, model: str) -> None:
        assert self.model is not None
        self._roads.close_road(model)
        closing, self.model = self.model, None
        closing.close()
