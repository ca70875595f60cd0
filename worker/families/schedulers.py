"""A model's schedulers by name, as the engine wants them."""

from __future__ import annotations

from typing import Any

from app.contract.messages.from_pictures import least_strength
from worker.engine.errors import GenerationFailed
from worker.engine.solver import Schedule
from worker.engine.stepping import FROM_NOISE, Beginning
from worker.models.schedulers import for_name, step_options


class NamedSchedulers:
    """Each is made once: some take a fifth of a second. `channels` are those of the model's latents; behind its output
    it may predict a variance."""

    def __init__(self, model_scheduler: Any, *, channels: int, predicts_variance: bool = False) -> None:
        self._model_scheduler = model_scheduler
        self._channels = channels
        self._predicts_variance = predicts_variance
        self._made: dict[str, Any] = {}

    def schedule(self, name: str, num_inference_steps: int, *, strength: float | None = None) -> Schedule:
        """`strength`, of a request that starts from a picture, is how much of the way is gone. Raises GenerationFailed
        for an unknown name, one that needs a package which is not there, and where nothing would be left to do."""
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
            predicts_variance=self._predicts_variance,
            beginning=_beginning(self._made[name], num_inference_steps, strength),
        )


def _beginning(scheduler: Any, num_inference_steps: int, strength: float | None) -> Beginning:
    """As `get_timesteps` of StableDiffusionImg2ImgPipeline rounds it."""
    if strength is None:
        return FROM_NOISE
    evaluated = min(int(num_inference_steps * strength), num_inference_steps)
    if evaluated < 1:
        raise GenerationFailed(
            f"With {num_inference_steps} steps, a strength of {strength:g} leaves nothing to do; "
            f"take at least {least_strength(num_inference_steps)}, or more steps."
        )
    return Beginning(index=(num_inference_steps - evaluated) * scheduler.order)
