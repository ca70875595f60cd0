"""A folder of ControlNets on disk: which of them fit a model, told from headers and configurations, and how one loads.

An entry is a folder that ControlNetModel.save_pretrained wrote, or a single .safetensors file in the same spelling;
requests call it by its name. Knows diffusers' layout of a ControlNet. Reads no weights before one is asked for and runs
nothing that it finds. Only `load_controlnet` needs the worker's packages.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from app.contract.messages.model_name import LEGAL, folder_name, is_legal
from worker.models.configs import Config
from worker.models.errors import ModelError
from worker.models.folder import LONGEST_JSON, file_fault
from worker.models.hashes import sha256_of
from worker.models.headers import HeaderError, Tensor, read_header
from worker.models.single_file import PICKLED

CLASS = "ControlNetModel"

WEIGHTS = ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.fp16.safetensors")

ENCODER = "controlnet_cond_embedding"
DOWN, MIDDLE = "controlnet_down_blocks", "controlnet_mid_block"

UNSERVED: Mapping[str, Sequence[Any]] = {
    "global_pool_conditions": (False,),
    "class_embed_type": (None,),
    "num_class_embeds": (None,),
    "encoder_hid_dim_type": (None,),
    "addition_embed_type": (None, "text", "text_time"),
    "controlnet_conditioning_channel_order": ("rgb", "bgr"),
}
"""Entries of a configuration, and the values with which a ControlNet is asked as it is here."""


@dataclass(frozen=True, slots=True)
class KeptFolder:
    """A folder of ControlNets, and how many of them are in memory at once."""

    folder: Path
    kept: int


@dataclass(frozen=True, slots=True)
class OfModel:
    """What a ControlNet has to fit: the UNet's configuration and tensors, the channels of its latents, and pixels
    along the side of one."""

    unet: Config
    tensors: Mapping[str, Tensor]
    latent_channels: int
    pixels_per_latent: int

    @property
    def skips(self) -> list[int]:
        """Channels of the UNet's skip connections, in their order."""
        widths, layers = self.unet["block_out_channels"], self.unet.get("layers_per_block", 2)
        counts = [layers] * len(widths) if isinstance(layers, int) else layers
        skips = [widths[0]]
        for k, (width, count) in enumerate(zip(widths, counts, strict=True)):
            skips += [width] * (count + (k + 1 < len(widths)))
        return skips


@dataclass(frozen=True, slots=True, eq=False)
class ControlNetFile:
    """One that fits. `config` are the arguments of its class."""

    name: str
    path: Path
    weights: Path
    config: Mapping[str, Any]
    elements: int


@dataclass(frozen=True, slots=True)
class ControlNetFiles:
    """Those of a folder by name, and one sentence for each entry that was left out. `kept`: how many of them are in
    memory at once."""

    files: Mapping[str, ControlNetFile] = field(default_factory=dict)
    faults: tuple[str, ...] = ()
    kept: int = 0

    def bytes(self, itemsize: int) -> float:
        """That the largest ones take which may be in memory together."""
        sizes = sorted((each.elements for each in self.files.values()), reverse=True)
        return float(sum(sizes[: self.kept]) * itemsize)


NO_CONTROLNETS = ControlNetFiles()


def read_controlnets(where: KeptFolder, model: OfModel) -> ControlNetFiles:
    """All of a folder. Raises ModelError if there is no such folder."""
    folder = where.folder
    try:
        entries = sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))
    except OSError as error:
        raise ModelError(f"DARKROOM_CONTROLNETS: {folder} cannot be read ({error.strerror}).") from error
    files: dict[str, ControlNetFile] = {}
    faults: list[str] = []
    for entry in entries:
        try:
            if not _is_meant(entry):
                continue
            file = _read(entry, model)
            if file.name in files:
                raise ModelError(f"{entry} has the name of {files[file.name].path}; rename one of them.")
            _check_tensors(file)
            files[file.name] = file
        except ModelError as error:
            faults += error.faults
    return ControlNetFiles(files, tuple(faults), where.kept)


def load_controlnet(file: ControlNetFile, dtype: Any) -> tuple[Any, str]:
    """The network, on the CPU and in that type of torch's, and the sha256 of its weights. Raises ModelError."""
    from diffusers import ControlNetModel
    from safetensors.torch import load_file

    try:
        network = _without_weights(ControlNetModel, file.config)
        tensors = {name: tensor.to(dtype) for name, tensor in load_file(file.weights).items()}
        network._fix_state_dict_keys_on_load(tensors)
        network.load_state_dict(tensors, assign=True)
    except Exception as error:
        raise ModelError(f"{file.path} cannot be loaded ({str(error)[:200]}).") from error
    return network.eval().requires_grad_(False), sha256_of(file.weights)


def _check_tensors(file: ControlNetFile) -> None:
    """Are they those of its class, by names and shapes? Where the worker's packages are missing, it is found out when
    it is loaded. Raises ModelError."""
    try:
        import torch
        from diffusers import ControlNetModel
    except ImportError:
        return
    try:
        found = {name: torch.empty(each.shape, device="meta") for name, each in read_header(file.weights).items()}
        network = _without_weights(ControlNetModel, file.config)
        network._fix_state_dict_keys_on_load(found)
        network.load_state_dict(found, assign=True)
    except Exception as error:
        said = " ".join(str(error).split())
        raise ModelError(
            f"{file.path} is not what its configuration says ({said[:200].rstrip('.')}); fetch it again."
        ) from error


def _is_meant(entry: Path) -> bool:
    """Is it there to be served? Papers and pictures beside the weights are not. Raises ModelError for what must not
    be opened."""
    if entry.suffix.lower() in PICKLED:
        raise ModelError(
            f"{entry} is pickled, which can run any program when it is opened; take the .safetensors of the ControlNet."
        )
    return entry.is_dir() or entry.suffix.lower() == ".safetensors"


def _read(entry: Path, model: OfModel) -> ControlNetFile:
    """Raises ModelError with all that does not fit."""
    name = folder_name(entry) if entry.is_dir() else entry.stem.lower()
    if not is_legal(name):
        raise ModelError(f"{entry} has no name that requests could use: that is {LEGAL}; rename it.")
    weights = _weights(entry)
    tensors = _tensors(weights)
    if foreign := _something_else(tensors):
        raise ModelError(f"{entry} is {foreign}.")
    config = _config(entry) if entry.is_dir() else _config_of_unet(model, tensors)
    try:
        wrong = [*_unserved(config), *_unfit(tensors, model)]
    except (KeyError, IndexError, TypeError) as error:
        raise ModelError(f"{entry} is no whole ControlNet ({error}); fetch it again.") from error
    if wrong:
        raise ModelError(f"{entry} does not fit the model: {'; '.join(wrong)}.")
    elements = sum(tensor.elements for tensor in tensors.values())
    return ControlNetFile(name, entry, weights, config, elements)


def _weights(entry: Path) -> Path:
    if not entry.is_dir():
        return entry
    found = next((entry / name for name in WEIGHTS if (entry / name).is_file()), None)
    if found is None:
        raise ModelError(f"{entry} has no {WEIGHTS[0]}; take the safetensors of the ControlNet.")
    return found


def _tensors(weights: Path) -> dict[str, Tensor]:
    if fault := file_fault(weights):
        raise ModelError(fault)
    try:
        return read_header(weights)
    except HeaderError as error:
        raise ModelError(f"{weights} {error}.") from error


def _something_else(tensors: Mapping[str, Tensor]) -> str | None:
    """What a file is that is no ControlNet of this layout, and what to do."""
    if any(name.startswith(("control_type_proj", "control_add_embedding", "task_embedding")) for name in tensors):
        return "a union ControlNet, which is not served; take one for a single kind of picture"
    if any(name.startswith(("control_model.", "input_blocks.", "zero_convs.")) for name in tensors):
        return (
            "a ControlNet in the layout of its first authors; convert it once: "
            "ControlNetModel.from_single_file(…).save_pretrained(…)"
        )
    if any("lora" in name.lower() for name in tensors):
        return "a LoRA, not a ControlNet; put it into the folder of DARKROOM_LORAS"
    if f"{MIDDLE}.weight" not in tensors or f"{ENCODER}.conv_in.weight" not in tensors:
        return "no ControlNet: its tensors have other names"
    return None


def _config(folder: Path) -> dict[str, Any]:
    file = folder / "config.json"
    try:
        with file.open("rb") as opened:
            config = json.loads(opened.read(LONGEST_JSON))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{file} is no readable JSON ({error}); fetch the ControlNet again.") from error
    if not isinstance(config, dict) or config.get("_class_name", CLASS) != CLASS:
        said = config.get("_class_name") if isinstance(config, dict) else "list"
        raise ModelError(f"{folder} is a {said!s:.60}; supported: {CLASS}.")
    return config


def _config_of_unet(model: OfModel, tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """Of a single file, which has none: a ControlNet is a copy of the UNet's first half."""
    blocks = sum(name.startswith(f"{ENCODER}.blocks.") and name.endswith(".weight") for name in tensors)
    first = tensors[f"{ENCODER}.conv_in.weight"].shape
    kept = [tensors[name].shape[0] for k in range(1, blocks, 2) if (name := f"{ENCODER}.blocks.{k}.weight") in tensors]
    own = {
        "in_channels": model.latent_channels,
        "conditioning_channels": first[1] if len(first) > 1 else 3,
        "conditioning_embedding_out_channels": [*first[:1], *kept],
    }
    return {**{name: value for name, value in model.unet.items() if not name.startswith("_")}, **own}


def _unserved(config: Mapping[str, Any]) -> Iterator[str]:
    for key, served in UNSERVED.items():
        if key in config and config[key] not in served:
            yield f"it has {key}={config[key]!r:.60}, which is not served"


def _unfit(tensors: Mapping[str, Tensor], model: OfModel) -> Iterator[str]:
    """What cannot be added to the model's skip connections, or reads other things than its UNet."""
    skips = model.skips
    own = [tensors[name].shape[0] for k in range(len(tensors)) if (name := f"{DOWN}.{k}.weight") in tensors]
    if own != skips or tensors[f"{MIDDLE}.weight"].shape[0] != skips[-1]:
        yield f"it is of another size (residuals of {own} channels; the model's are {skips})"
        return
    width = model.unet["cross_attention_dim"]
    texts = {tensor.shape[-1] for name, tensor in tensors.items() if name.endswith("attn2.to_k.weight")}
    if texts - {width}:
        yield f"it reads texts of width {min(texts)}, the model {width}"
    for name, what in (("time_embedding.linear_1.weight", "timesteps"), ("add_embedding.linear_1.weight", "sizes")):
        if (tensors.get(name) is None) != (model.tensors.get(name) is None):
            yield f"only one of the two reads {what} beside the text"
        elif name in tensors and tensors[name].shape != model.tensors[name].shape:
            yield f"it reads {what} of another width"
    if tensors["conv_in.weight"].shape[1] != model.latent_channels:
        yield f"it reads latents of {tensors['conv_in.weight'].shape[1]} channels, the model {model.latent_channels}"
    halvings = sum(name.startswith(f"{ENCODER}.blocks.") and name.endswith(".weight") for name in tensors) // 2
    if 2**halvings != model.pixels_per_latent:
        yield f"it makes one of {2**halvings} pixels of its picture, the model of {model.pixels_per_latent}"


def _without_weights(cls: Any, config: Mapping[str, Any]) -> Any:
    import torch

    known = inspect.signature(cls.__init__).parameters
    with torch.device("meta"):
        return cls(**{name: value for name, value in config.items() if name in known})
