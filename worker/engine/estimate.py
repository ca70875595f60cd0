"""How much of the finished picture can be told at each evaluation: x0 from the latents and the model's output.

Knows what a scheduler's model predicts and how noisy a timestep is. Knows nothing of solvers.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from worker.engine.table import Numbers

Precise = NDArray[np.float64]

LEAST_SIGNAL = 1e-3
"""A timestep with zero terminal SNR has no signal at all, and x0 cannot be told from epsilon there."""


def x0_coefficients(scheduler: Any, timesteps: Numbers, input_scale: Numbers, *, begin_index: int = 0) -> Numbers:
    """[T, 2]: x0 = first * x + second * m, for latents x of which the model sees input_scale * x.

    `scheduler` has its timesteps set; `timesteps` are those from `begin_index` on. The model's input is alpha x0 +
    sigma eps. What m is: eps; v = alpha eps - sigma x0 (Salimans and Ho, 2022); x0; or, for a flow, eps - x0 with the
    input (1 - sigma) x0 + sigma eps (Lipman et al. 2023).
    """
    kind = scheduler.config.get("prediction_type", "flow_prediction")
    ones = np.ones_like(timesteps)
    if not hasattr(scheduler, "alphas_cumprod") or kind == "flow_prediction":
        return np.stack([ones, -timesteps / scheduler.config.num_train_timesteps], axis=1).astype(np.float32)
    alpha, sigma = _levels(scheduler, timesteps, input_scale, begin_index)
    levels: dict[str, tuple[Any, Any]] = {
        "epsilon": (1 / alpha, -sigma / alpha),
        "v_prediction": (alpha, -sigma),
        "sample": (0 * ones, ones),
    }
    of_input, of_output = levels[kind]
    return np.stack([of_input * input_scale, of_output], axis=1).astype(np.float32)


def _levels(scheduler: Any, timesteps: Numbers, input_scale: Numbers, begin_index: int) -> tuple[Precise, Precise]:
    """alpha and sigma [T] of the model's input, as the scheduler itself has them: with flow sigmas, or with sigmas that
    have bounds of their own, they are not those that the timestep was trained with."""
    sigmas: Any = getattr(scheduler, "sigmas", None)
    ends = begin_index + len(timesteps)
    if hasattr(scheduler, "_sigma_to_alpha_sigma_t") and len(sigmas) > ends:
        own = scheduler._sigma_to_alpha_sigma_t(sigmas[begin_index:ends])
        alpha, sigma = (np.asarray(level.cpu().double().numpy(), np.float64) for level in own)
    elif sigmas is not None and np.any(input_scale != 1):
        # Latents x0 + s eps (Karras et al. 2022), which the model sees divided by sqrt(1 + s^2).
        alpha = input_scale.astype(np.float64)
        sigma = np.sqrt(np.maximum(1 - alpha**2, 0))
    else:
        signal = scheduler.alphas_cumprod.cpu().double().numpy()
        square = np.interp(timesteps, np.arange(len(signal)), signal)
        alpha, sigma = np.sqrt(square), np.sqrt(1 - square)
    return np.maximum(alpha, LEAST_SIGNAL), sigma
