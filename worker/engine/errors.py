"""What can go wrong with a picture inside the engine.

    EngineError                ends one job; its neighbours notice nothing
      GenerationFailed         generation-failed      the request does not fit the model, or a stage raised
      NumericalError           numerical-error        NaN or infinity in the latents or in the decoded picture
      OutOfMemory              out-of-memory          one sample alone is too much for the device
      ContentBlocked           content-blocked        every picture was flagged, and flagged ones are not shown
    DeviceLost                 the device will not compute again in this process: the process must end

Details are for the person who asked: they name no path, no prompt and no traceback. Those go to the log.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

import structlog
import torch

log = structlog.get_logger()

SIGNS_OF_A_LOST_DEVICE = ("CUDA error", "HIP error", "device-side assert", "CUDA driver error")
"""Older paths of torch raise a plain RuntimeError with one of these; newer ones a torch.AcceleratorError."""


SIGNS_OF_FULL_MEMORY = (
    "DefaultCPUAllocator: can't allocate memory",
    "DefaultCPUAllocator: not enough memory",
    "Cannot allocate memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUBLAS_STATUS_NOT_INITIALIZED",
    "unable to find an engine to execute this computation",
    "CUDA error: out of memory",
)
"""torch's allocator for CPUs raises a plain RuntimeError with one of the first two (the other is Windows'), a file that
cannot be mapped is an error of safetensors with the third. cuBLAS has no room for its workspace or its handle, cuDNN
for any of its plans, and the driver for what it loads beside torch's allocator."""


class EngineError(Exception):
    """Ends one job. `slug` is stable and for programs, `detail` is one sentence for a person."""

    slug: ClassVar[str] = "generation-failed"

    def __init__(self, detail: str) -> None:
        super().__init__(detail)
        self.detail = detail


class GenerationFailed(EngineError):
    slug = "generation-failed"


class NumericalError(EngineError):
    slug = "numerical-error"


class OutOfMemory(EngineError):
    slug = "out-of-memory"


class ContentBlocked(EngineError):
    slug = "content-blocked"


class DeviceLost(Exception):
    """Every later call on the device would fail as well, often with a misleading message."""


def engine_error(error: Exception, *, stage: str) -> EngineError:
    """What `error`, raised by a stage, means for the job it struck.

    Raises DeviceLost if it means the end of the whole process.
    """
    if isinstance(error, EngineError):
        return error
    if is_out_of_memory(error):
        return OutOfMemory("The device has not enough memory for one picture of this size; ask for a smaller one.")
    if is_lost_device(error):
        raise DeviceLost(str(error)) from error
    log.error("a stage raised", stage=stage, exc_info=error)
    return GenerationFailed(f"The {stage} stage raised {type(error).__name__}; the worker's log holds the traceback.")


@contextmanager
def device_watch() -> Iterator[None]:
    """Turn the end of the device into DeviceLost wherever it shows: kernels fail later than the call that ran them."""
    try:
        yield
    except RuntimeError as error:
        if is_lost_device(error):
            raise DeviceLost(str(error)) from error
        raise


@contextmanager
def at_worst_without(what: str, **facts: Any) -> Iterator[None]:
    """Around what nobody's picture depends on: if it raises, the log says `what`. Raises DeviceLost alone."""
    try:
        yield
    except Exception as error:
        if is_lost_device(error):
            raise DeviceLost(str(error)) from error
        log.warning(what, exc_info=error, **facts)


def is_lost_device(error: Exception) -> bool:
    """Will every later call fail as well?"""
    if is_out_of_memory(error):
        return False
    if not isinstance(error, torch.AcceleratorError) and not any(sign in str(error) for sign in SIGNS_OF_A_LOST_DEVICE):
        return False
    return not still_computes()


def still_computes() -> bool:
    """Does the thread's current GPU? What one odd call caused, such as a kernel of an impossible size, leaves it well;
    behind an illegal access, every call fails. A device that cannot be asked is taken to be lost."""
    if not torch.cuda.is_available():
        return False
    try:
        one_small_kernel()
    except Exception as error:
        return is_out_of_memory(error)
    return True


def one_small_kernel() -> None:
    """Launched, and waited for."""
    torch.zeros(1, device="cuda").add_(1)
    torch.cuda.synchronize()


def is_out_of_memory(error: BaseException) -> bool:
    """Does it say that memory is full? Not all of them are torch.OutOfMemoryError, nor even MemoryError."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return any(sign in str(error) for sign in SIGNS_OF_FULL_MEMORY)
