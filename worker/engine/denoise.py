"""One step of a batch: a single call of the UNet for samples of one latent shape, each at its own timestep.

The only place that knows what a row is. `predict` changes no sample, so a call that raised may be repeated; `advance`
then moves each sample by itself.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from worker.engine.errors import EngineError, NumericalError, engine_error
from worker.engine.sample import Sample
from worker.models.bundle import Bundle


def predict(bundle: Bundle, samples: Sequence[Sample]) -> list[torch.Tensor]:
    """The UNet's guided output for each sample, in order, float32 [1, C, h, w]. Guided and unguided ones may mix."""
    ordered = sorted(samples, key=lambda sample: not sample.is_guided)
    guided = sum(sample.is_guided for sample in ordered)
    outputs = _run_unet(bundle, ordered, guided)
    unconditional, conditional = outputs[:guided], outputs[guided:]
    conditional[:guided] = _guide(conditional[:guided], unconditional, ordered[:guided])
    by_sample = dict(zip(ordered, conditional.split(1), strict=True))
    return [by_sample[sample] for sample in samples]


def _run_unet(bundle: Bundle, ordered: list[Sample], guided: int) -> torch.Tensor:
    """Rows: unconditional ones of the guided samples, which come first, then a conditional one of every sample."""
    x = torch.cat([sample.model_input for sample in ordered])
    t = torch.stack([sample.timestep for sample in ordered])
    unconditional = [sample.conditioning.unconditional for sample in ordered[:guided]]
    context = torch.stack([*unconditional, *(sample.conditioning.conditional for sample in ordered)])
    output = bundle.unet(
        torch.cat([x[:guided], x]).to(bundle.dtype),
        torch.cat([t[:guided], t]),
        encoder_hidden_states=context,
        return_dict=False,
    )[0]
    return output.float()


def _guide(conditional: torch.Tensor, unconditional: torch.Tensor, samples: list[Sample]) -> torch.Tensor:
    """Classifier-free guidance (Ho and Salimans, 2022), each sample with its own scale."""
    scales = [sample.guidance_scale for sample in samples]
    scale = torch.tensor(scales, dtype=torch.float32, device=conditional.device).view(-1, 1, 1, 1)
    return unconditional + scale * (conditional - unconditional)


def advance(samples: Sequence[Sample], outputs: Sequence[torch.Tensor | EngineError]) -> list[EngineError | None]:
    """Move each sample of one latent shape to its next latents; an error for each one that cannot go on."""
    errors = [_advance(sample, output) for sample, output in zip(samples, outputs, strict=True)]
    # One synchronisation with the device for the whole batch.
    finite = torch.isfinite(torch.cat([sample.latents for sample in samples])).flatten(1).all(1).tolist()
    nan = NumericalError("The latents stopped being numbers; try another seed, scheduler or a lower guidance_scale.")
    return [error or (None if is_finite else nan) for error, is_finite in zip(errors, finite, strict=True)]


def _advance(sample: Sample, output: torch.Tensor | EngineError) -> EngineError | None:
    if isinstance(output, EngineError):
        return output
    try:
        sample.advance(output)
    except Exception as error:
        return engine_error(error, stage="solver")
    return None
