"""The network of a scorer's folder: its class and configuration, its weights, and how pictures are prepared for it.

Whatever the layout, what comes out is a CLIPModel or a SiglipModel. Knows no device.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
import transformers
from safetensors.torch import load_file

from worker.models import open_clip
from worker.models.errors import ModelError
from worker.models.headers import Tensor
from worker.models.preparation import Preparation, read_preparation, untold
from worker.models.quiet import quiet_libraries
from worker.models.scorer_folder import ScorerFolder
from worker.models.shapes import AGAIN, cannot_be_loaded, compared, difference_faults


def class_of(folder: ScorerFolder) -> Any:
    return getattr(transformers, folder.family)


def network_config(folder: ScorerFolder) -> Any:
    """The configuration as transformers has it. Raises ModelError."""
    said = folder.config()
    try:
        if folder.layout.kind == "open_clip":
            said = open_clip.clip_config(said["model_cfg"])
        return class_of(folder).config_class.from_dict(dict(said))
    except ModelError as error:
        raise ModelError(f"{folder.path / folder.layout.config} is of no scorer that is read here: {error}.") from error
    except Exception as error:
        raise ModelError(cannot_be_loaded(folder.path / folder.layout.config, error)) from error


def text_config(model: Any) -> Any:
    """Of a network, or of its configuration."""
    return getattr(model, "config", model).text_config


def preparation_of(folder: ScorerFolder) -> Preparation:
    """Raises ModelError for what is not done here."""
    if folder.layout.kind != "open_clip":
        return read_preparation(folder.path)
    try:
        return open_clip.preparation_of(folder.config())
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise untold(folder.path / folder.layout.config, error) from error


def load_network(folder: ScorerFolder, dtype: torch.dtype) -> Any:
    """With all of its weights, in the host's memory. Raises ModelError, and what transformers raises."""
    # Without `output_loading_info` a missing tensor would only be logged, and filled with random numbers.
    options = {"dtype": dtype, "output_loading_info": True}
    bias = None
    if folder.layout.kind == "open_clip":
        found = open_clip.to_transformers(_loaded(folder))
        bias = found.pop("logit_bias", None)
        model, info = class_of(folder).from_pretrained(None, config=network_config(folder), state_dict=found, **options)
    else:
        weights = folder.weights()
        model, info = class_of(folder).from_pretrained(
            folder.path, variant=weights.variant, use_safetensors=True, local_files_only=True, **options
        )
    if wrong := sorted(map(str, (*info["missing_keys"], *info["mismatched_keys"]))):
        raise ModelError(f"The weights in {folder.path} lack {len(wrong)} tensors, e.g. {wrong[0]}; {AGAIN}.")
    if bias is not None:
        model.logit_bias = torch.nn.Parameter(bias.to(dtype))
    return model


def network_faults(folder: ScorerFolder, tensors: Mapping[str, Tensor]) -> Iterator[str]:
    """One sentence for each way in which the `tensors` of its files are not those of its class, and for pictures that
    are prepared for another network."""
    found = {name: torch.empty(tensor.shape, device="meta") for name, tensor in tensors.items()}
    try:
        if folder.layout.kind == "open_clip":
            found = open_clip.to_transformers(found)
        with quiet_libraries():
            config = network_config(folder)
            missing, mismatched = compared(class_of(folder), config, found)
    except ModelError as error:
        yield from error.faults
        return
    except Exception as error:
        yield cannot_be_loaded(folder.path, error)
        return
    if folder.layout.kind == "open_clip":
        missing, mismatched = (sorted({open_clip.name_of(name) for name in each}) for each in (missing, mismatched))
    yield from difference_faults(folder.path, missing, mismatched)
    yield from _preparation_faults(folder, config)


def _preparation_faults(folder: ScorerFolder, config: Any) -> Iterator[str]:
    try:
        side = preparation_of(folder).side
    except ModelError as error:
        yield from error.faults
        return
    if side != config.vision_config.image_size:
        yield (
            f"{folder.path} prepares pictures of {side} pixels, and the network sees "
            f"{config.vision_config.image_size}; fetch both from the same model."
        )


def _loaded(folder: ScorerFolder) -> dict[str, torch.Tensor]:
    return {name: tensor for file in folder.weights().files for name, tensor in load_file(file).items()}
