"""How much of the finished picture can be told at each evaluation: x0 from the latents and the model's output.

Knows what a scheduler's model predicts and how noisy a timestep is. Knows nothing of solvers.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from worker.engine.table import Numbers

LEAST_SIGNAL = 1e-3
"""A timestep with zero terminal SNR has no signal at all, and x0 cannot be told from epsilon there."""


def x0_coefficients(scheduler: Any, timesteps: Numbers, input_scale: Numbers) -> Numbers:
    """[T, 2]: x0 = first * x + second * m, for latents x of which the model sees input_scale * x.

    The model's input is alpha x0 + sigma eps with alpha^2 + sigma^2 = 1 (Ho et al. 2020), whatever the solver's own
    scaling. What m is: eps; v = alpha eps - sigma x0 (Salimans and Ho, 2022); x0; or, for a flow, eps - x0 with the
    input (1 - sigma) x0 + sigma eps (Lipman et al. 2023).
    """
    kind = scheduler.config.get("prediction_type", "flow_prediction")
    ones = np.ones_like(timesteps)
    if not hasattr(scheduler, "alphas_cumprod") or kind == "flow_prediction":
        return np.stack([ones, -timesteps / scheduler.config.num_train_timesteps], axis=1).astype(np.float32)
    signal = scheduler.alphas_cumprod.double().cpu().numpy()
    square = np.clip(np.interp(timesteps, np.arange(len(signal)), signal), LEAST_SIGNAL**2, 1.0)
    alpha, sigma = np.sqrt(square), np.sqrt(1 - square)
    of_input, of_output = {
        "epsilon": (1 / alpha, -sigma / alpha),
        "v_prediction": (alpha, -sigma),
        "sample": (0 * ones, ones),
    }[kind]
    return np.stack([of_input * input_scale, of_output], axis=1).astype(np.float32)
