"""What goes into every picture besides the job's own parameters: which weights, which code, which machine drew it.

Whoever has this and the parameters can draw the picture again, or say why it came out differently.
"""

from __future__ import annotations

import platform
from dataclasses import asdict, dataclass, replace

import diffusers
import torch

from app import __version__
from worker.engine.lane import REPRODUCIBLE_ROWS
from worker.models.bundle import Bundle


@dataclass(frozen=True, slots=True)
class Provenance:
    """`model_hash` is over all files of the model; `device` is the chip's name, `dtype` the type of its numbers;
    `bucket` is how many rows each step of a reproducible picture has; `vae` the name of a VAE that is not the
    model's own, whose files are then among those of the hash; `compiled`: steps were, or may have been, taken by a
    compiled network, which rounds in other places."""

    model_hash: str
    version: str
    torch: str
    diffusers: str
    device: str
    dtype: str
    bucket: int
    vae: str | None = None
    compiled: bool | None = None

    def note(self, *, reproducible: bool) -> dict[str, str | int | bool]:
        """As it stands in a picture's record. Other pictures are drawn with as many rows as there happen to be."""
        note = {name: value for name, value in asdict(self).items() if value is not None}
        # Steps of a reproducible picture are never compiled.
        absent = "compiled" if reproducible else "bucket"
        return {name: value for name, value in note.items() if name != absent}


def provenance_of(bundle: Bundle, *, is_compiled: bool = False) -> Provenance:
    """Of what this process draws with this model."""
    own = provenance(bundle.sha256, device=bundle.device, dtype=bundle.dtype, vae=bundle.vae_name)
    return replace(own, compiled=is_compiled or None)


def provenance(sha256: str, *, device: torch.device, dtype: torch.dtype, vae: str | None = None) -> Provenance:
    """Of what this process makes with these weights."""
    return Provenance(
        model_hash=sha256,
        version=__version__,
        torch=str(torch.__version__),
        diffusers=diffusers.__version__,
        device=_chip(device),
        dtype=str(dtype).removeprefix("torch."),
        bucket=REPRODUCIBLE_ROWS,
        vae=vae,
    )


def _chip(device: torch.device) -> str:
    """Chips of one name round alike; two that are both called cuda need not."""
    if device.type == "cuda":
        return f"cuda, {torch.cuda.get_device_name(device)}"
    return f"{device.type}, {platform.machine()}"
