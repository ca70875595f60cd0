"""From the host to the device and back, without the host waiting for the device; and which device is the current one.

Every crossing of the serving loop goes through here, so that none of them stops the host by accident: on CUDA a copy
from pageable memory waits for all that was launched before it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch


@contextmanager
def current_device(device: torch.device) -> Iterator[None]:
    """Events, streams and captures of this thread belong to `device`.

    torch makes the stream of a capture, and records an event, on the thread's current device, whatever the tensors'
    is: on cuda:1 a graph captured without this is empty, and replaying it does nothing.
    """
    if device.type != "cuda":
        yield
        return
    with torch.cuda.device(device):
        yield


def to_device(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """The host's `tensor` on the device, which may still be busy with what came before; one of the device as it is.

    On CUDA from pinned memory, which its allocator holds back until the copy is done: the host need not.
    """
    if device.type != "cuda" or tensor.is_cuda:
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


def fill(buffer: torch.Tensor, tensor: torch.Tensor) -> None:
    """The host's `tensor` into a buffer of the device, behind all that was launched before."""
    buffer.copy_(tensor.pin_memory() if buffer.is_cuda else tensor, non_blocking=True)


def room_on_host(shape: Sequence[int], dtype: torch.dtype, device: torch.device) -> torch.Tensor | None:
    """For a tensor of that device to arrive at; None where it would be on the host already."""
    return _pinned(shape, dtype) if device.type == "cuda" else None


def to_host(tensor: torch.Tensor, room: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.cuda.Event | None]:
    """A copy of the device's `tensor`, and the event after which it has arrived; None if it has. With `room` for it
    (see `room_on_host`), nothing is allocated."""
    if not tensor.is_cuda:
        return tensor.cpu(), None
    host = _pinned(tensor.shape, tensor.dtype) if room is None else room
    host.copy_(tensor, non_blocking=True)
    arrived = torch.cuda.Event()
    arrived.record()
    return host, arrived


def _pinned(shape: Sequence[int], dtype: torch.dtype) -> torch.Tensor:
    return torch.empty(shape, dtype=dtype, pin_memory=True)
