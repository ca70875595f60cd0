"""Where a model will run, and in which type of numbers: the settings' words, resolved on this machine.

Knows torch and its devices. Knows no model.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from worker.machine import Room, main_memory
from worker.models.errors import ModelError
from worker.models.need import Rooms

BFLOAT16 = ("amx_bf16", "avx512_bf16", "bf16")
"""Instructions that multiply it, as torch names them: of Intel and AMD, and of ARM."""


@dataclass(frozen=True, slots=True)
class Place:
    device: torch.device
    dtype: torch.dtype

    @property
    def dtype_name(self) -> str:
        return str(self.dtype).removeprefix("torch.")

    def rooms(self) -> Rooms:
        """The memory there is for a model in this place. Raises ModelError for a GPU that is not there."""
        if self.device.type != "cuda" or not torch.cuda.is_available():
            return Rooms(main_memory())
        try:
            free, total = torch.cuda.mem_get_info(self.device)
        except (RuntimeError, AssertionError) as error:
            raise ModelError(
                f"The device {self.device} is not there; there are {torch.cuda.device_count()}."
            ) from error
        return Rooms(
            Room(float(total), float(free), f"the GPU {torch.cuda.get_device_name(self.device)}"), main_memory()
        )


def multiplies_bfloat16() -> bool:
    """Has this machine's processor instructions for it? One without computes in float32 and converts on the way."""
    told = torch.cpu.get_capabilities()
    return any(told.get(name, False) for name in BFLOAT16)


def place_of(device: str, dtype: torch.dtype | str) -> Place:
    """auto is the first GPU if there is one, in float16, else the CPU in float32. Raises ModelError for other words."""
    try:
        place = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device)
    except RuntimeError as error:
        raise ModelError(f"The device {device} is unknown; name auto, cpu, cuda, cuda:1 or mps.") from error
    if dtype == "auto":
        return Place(place, torch.float16 if place.type == "cuda" else torch.float32)
    named = getattr(torch, dtype, None) if isinstance(dtype, str) else dtype
    if not isinstance(named, torch.dtype) or not named.is_floating_point:
        raise ModelError(f"The dtype {dtype} is unknown; name auto, float32, float16 or bfloat16.")
    return Place(place, named)
