"""A model's schedulers by name, as the engine wants them."""

from __future__ import annotations

from typing import Any

from worker.engine.errors import GenerationFailed
from worker.engine.solver import Schedule
from worker.models.schedulers import for_name, step_options


class NamedSchedulers:
    """Each is made once: some take a fifth of a second. `channels` are those of the model's latents."""

    def __init__(self, model_scheduler: Any, *, channels: int) -> None:
        self._model_scheduler = model_scheduler
        self._channels = channels
        self._made: dict[str, Any] = {}

    def schedule(self, name: str, num_inference_steps: int) -> Schedule:
        """Raises GenerationFailed for an unknown name, or one that needs a package which is not there."""
        try:
            if name not in self._made:
                self._made[name] = for_name(self._model_scheduler, name)
            options = step_options(name)
        except (ValueError, ImportError) as error:
            raise GenerationFailed(str(error)) from error
        return Schedule(
            name=name,
            scheduler=self._made[name],
            num_inference_steps=num_inference_steps,
            options=options,
            channels=self._channels,
        )
