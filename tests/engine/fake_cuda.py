"""A CUDA device without a GPU: tensors that have shapes and a device but no values, and a diary of what the host did.

Tensors are torch's FakeTensors, which know about devices what CUDA knows: two devices in one operation are an error.
What torch.cuda does is noted instead of done. Nothing is computed: flags are all true and pictures black.
All patches end with `FakeCuda.in_place`, and `FakeCuda.computing` is the thread's alone.
"""

from __future__ import annotations

import copy
import dataclasses
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast
from unittest.mock import patch

import numpy as np
import torch
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensor, FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from worker.models.bundle import Bundle
from worker.models.safety import SafetyChecker

aten = torch.ops.aten

NO_CUDA = "not linked with support for cuda"
"""What torch built for a CPU says where an operation would make the tensor's device the current one."""

MADE_OF_OTHERS = frozenset({"is_nonzero", "item", "to", "type_as"})
"""Operations that cross in a part of theirs, and come in one piece under inference_mode."""


@dataclass(frozen=True)
class Launch:
    """Of a captured step. They are counted from 1."""

    number: int


@dataclass(frozen=True)
class Wait:
    """The host waited until the launch of that number, and what was sent off behind it, was over."""

    number: int


@dataclass(frozen=True)
class Crossing:
    """A copy between host and device, or a value that Python read. `file` of the worker is where."""

    what: str
    file: str
    is_blocking: bool
    in_capture: bool


@dataclass(frozen=True)
class Made:
    """An event recorded, or a stream or graph made, while the device of number `current` was the current one."""

    kind: str
    current: int


Entry = Launch | Wait | Crossing | Made


class FakeCuda:
    """The device `cuda:index` of a machine whose threads begin with cuda:0 as the current one."""

    def __init__(self, index: int) -> None:
        self.device = torch.device("cuda", index)
        self.current = 0
        self.is_capturing = False
        self.launches = 0
        self.diary: list[Entry] = []
        self.pools: list[object] = []
        """Of each capture, in their order."""
        self._tensors = FakeTensorMode(allow_non_fake_inputs=True)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """torch.cuda is this device."""
        cuda = self

        class Event:
            def record(self) -> None:
                cuda.diary.append(Made("event", cuda.current))
                self._number = cuda.launches

            def synchronize(self) -> None:
                cuda.diary.append(Wait(self._number))

            def query(self) -> bool:
                """As if the device were one step behind."""
                return self._number < cuda.launches

        class Stream:
            def __init__(self, device: torch.device | None = None) -> None:
                cuda.diary.append(Made("stream", cuda.current))
                self.index = cuda.current if device is None else device.index

            def wait_stream(self, other: object) -> None:
                pass

        class Graph:
            def __init__(self) -> None:
                cuda.diary.append(Made("graph", cuda.current))

            def replay(self) -> None:
                cuda.launches += 1
                cuda.diary.append(Launch(cuda.launches))

        @contextmanager
        def capture(graph: Graph, pool: object = None, stream: Stream | None = None) -> Iterator[None]:
            cuda.diary.append(Made("capture", cuda.current))
            cuda.pools.append(pool)
            cuda.is_capturing = True
            yield
            cuda.is_capturing = False

        @contextmanager
        def current_device(index: int | None) -> Iterator[None]:
            before, cuda.current = cuda.current, cuda.current if index is None else index
            yield
            cuda.current = before

        replaced: dict[str, Any] = {
            "Event": Event,
            "Stream": Stream,
            "CUDAGraph": Graph,
            "graph": capture,
            "device": lambda device: current_device(device.index),
            "stream": lambda stream: current_device(stream.index),
            "current_stream": lambda device: Stream(device),
            "graph_pool_handle": object,
            "synchronize": lambda device: self.diary.append(Wait(self.launches)),
            "empty_cache": lambda: None,
            "memory_allocated": lambda device: 0,
            "memory_reserved": lambda device: 0,
            "max_memory_allocated": lambda device: 1 << 20,
            "reset_peak_memory_stats": lambda device: None,
            "mem_get_info": lambda device: (1 << 34, 1 << 34),
        }
        # Asked by torch's own decompositions as well, where no mode is on.
        with patch.multiple(torch.cuda, **replaced), patch.object(torch.Tensor, "contiguous", _contiguous):
            yield

    @contextmanager
    def computing(self) -> Iterator[None]:
        """Whatever torch does here, in this thread, is done without values, and crossings are noted."""
        with self._tensors, _Watch(self), _Calls():
            yield

    def bundle(self, bundle: Bundle, dtype: torch.dtype) -> Bundle:
        """The same model on this device."""
        names = [
            name for name in ("text_encoder", "text_encoder_2", "unet", "vae") if getattr(bundle, name) is not None
        ]
        with self.computing():
            parts: dict[str, Any] = {name: self._moved(getattr(bundle, name), dtype) for name in names}
            if (checker := bundle.checker) is not None:
                parts["checker"] = SafetyChecker(self._moved(checker.model, dtype), checker.preparation)
        return dataclasses.replace(bundle, device=self.device, dtype=dtype, **parts)

    def _moved(self, module: torch.nn.Module, dtype: torch.dtype) -> torch.nn.Module:
        def here(tensor: torch.Tensor) -> torch.Tensor:
            own = dtype if tensor.is_floating_point() else tensor.dtype
            return torch.empty_strided(tensor.shape, tensor.stride(), dtype=own, device=self.device)

        memo: dict[int, Any] = {id(buffer): here(buffer) for buffer in module.buffers()}
        for parameter in module.parameters():
            memo[id(parameter)] = torch.nn.Parameter(here(parameter), requires_grad=False)
        return copy.deepcopy(module, memo)


class _Watch(TorchDispatchMode):
    """Notes what crosses between host and device, and answers for values that are not there."""

    def __init__(self, cuda: FakeCuda) -> None:
        super().__init__()
        self._cuda = cuda

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None) -> Any:
        kwargs, name = kwargs or {}, func.overloadpacket.__name__
        if name in MADE_OF_OTHERS:
            with self:
                return func.decompose(*args, **kwargs)
        if name == "_local_scalar_dense" and isinstance(args[0], FakeTensor):
            if args[0].device.type == "cuda":
                self._note("a value read", is_blocking=True)
            try:
                return func(*args, **kwargs)
            except DataDependentOutputException:
                return True if args[0].dtype == torch.bool else 1
        result = func(*args, **kwargs)
        if name in ("copy_", "_to_copy"):
            source, target = (args[1], args[0]) if name == "copy_" else (args[0], result)
            if source.device != target.device:
                asynchronous = kwargs.get("non_blocking", False) or True in args[2:]
                host = source if source.device.type == "cpu" else target
                # What _to_copy brings to the host is pinned, but nobody can tell when it is there.
                is_blocking = not (asynchronous and getattr(host, "is_fake_pinned", False))
                self._note(f"{source.device.type} to {target.device.type}", is_blocking=is_blocking)
        elif isinstance(result, torch.Tensor) and result.device.type == "cuda" and _from_host(args):
            self._note(f"{name} with what lies on the host", is_blocking=True)
        return result

    def _note(self, what: str, *, is_blocking: bool) -> None:
        self._cuda.diary.append(Crossing(what, _file_of_worker(), is_blocking, self._cuda.is_capturing))


def _from_host(args: tuple[Any, ...]) -> bool:
    """Is there a tensor on the host among them? Numbers with no dimension travel with the launch."""
    flat = [each for arg in args for each in (arg if isinstance(arg, list | tuple) else [arg])]
    return any(isinstance(each, torch.Tensor) and each.device.type == "cpu" and each.dim() > 0 for each in flat)


def _file_of_worker() -> str:
    frame = sys._getframe(1)
    while frame.f_back is not None and "/worker/" not in frame.f_code.co_filename:
        frame = frame.f_back
    return Path(frame.f_code.co_filename).name


class _Calls(TorchFunctionMode):
    """Calls that torch built for a CPU cannot make on a CUDA tensor, in other words; and what needs values."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        given = dict(kwargs or {})
        tensor = args[0] if args and isinstance(args[0], FakeTensor) else None
        if given.pop("pin_memory", False):
            return _pinned(func(*args, **given))
        if tensor is None:
            return func(*args, **given)
        if func is torch.Tensor.pin_memory:
            return _pinned(tensor.clone())
        if func in (torch.Tensor.numpy, torch.Tensor.tolist):
            return _values(tensor, as_list=func is torch.Tensor.tolist)
        if tensor.device.type == "cuda":
            return _on_cuda(func, tensor, *args[1:], **given)
        return func(*args, **given)


def _pinned(tensor: torch.Tensor) -> torch.Tensor:
    cast(Any, tensor).is_fake_pinned = True
    return tensor


def _values(tensor: torch.Tensor, *, as_list: bool) -> Any:
    if tensor.device.type == "cuda" and not as_list:
        raise TypeError("can't convert cuda tensor to numpy")
    zeros = np.zeros(tensor.shape, str(tensor.dtype).removeprefix("torch."))
    if not as_list:
        return zeros
    if tensor.device.type == "cuda":
        # Read as Python reads it, so that it is noted.
        tensor.flatten().select(0, 0).item()
    return (zeros + 1).tolist()


def _on_cuda(func: Any, tensor: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
    if func is torch.Tensor.__getitem__:
        return _indexed(tensor, args[0])
    if func is torch.Tensor.__setitem__:
        view, value = _indexed(tensor, args[0]), args[1]
        if isinstance(value, torch.Tensor):
            aten.copy_(view, value)
        else:
            aten.fill_(view, value)
        return None
    try:
        return func(tensor, *args, **kwargs)
    except RuntimeError as error:
        if NO_CUDA not in str(error):
            raise
    return (
        tensor.to(torch.float32) if func.__name__ == "float" else getattr(aten, func.__name__)(tensor, *args, **kwargs)
    )


_contiguous_on_a_cpu = torch.Tensor.contiguous


def _contiguous(tensor: torch.Tensor, memory_format: torch.memory_format = torch.contiguous_format) -> torch.Tensor:
    if not isinstance(tensor, FakeTensor) or tensor.device.type != "cuda":
        return _contiguous_on_a_cpu(tensor, memory_format=memory_format)
    if tensor.is_contiguous(memory_format=memory_format):
        return tensor
    return cast(torch.Tensor, aten.clone(tensor, memory_format=memory_format))


def _indexed(tensor: torch.Tensor, index: Any) -> torch.Tensor:
    parts = list(index) if isinstance(index, tuple) else [index]
    if any(part is Ellipsis for part in parts):
        at = next(k for k, part in enumerate(parts) if part is Ellipsis)
        named = sum(part is not None for part in parts) - 1
        parts[at : at + 1] = [slice(None)] * (tensor.dim() - named)
    dim, gathered = 0, dict[int, torch.Tensor]()
    for part in parts:
        if part is None:
            tensor = aten.unsqueeze(tensor, dim)
        elif isinstance(part, slice):
            tensor = aten.slice(tensor, dim, part.start, part.stop, part.step or 1)
        elif isinstance(part, int):
            tensor = aten.select(tensor, dim, part)
            continue
        else:
            gathered[dim] = torch.as_tensor(part)
        dim += 1
    if not gathered:
        return tensor
    return cast(torch.Tensor, aten.index(tensor, [gathered.get(d) for d in range(max(gathered) + 1)]))
