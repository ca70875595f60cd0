"""A denoiser compiled by torch.compile, for the shapes that warm-up met. Every other call is the denoiser's own.

A compile takes about a minute, for which nobody is kept waiting: after warm-up nothing is compiled any more. Of other
latents, of rows with a LoRA and beside a ControlNet the denoiser is asked as it is.
Knows shapes and torch's compiler. Knows not which sizes are worth it.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal

import structlog
import torch
import torch._dynamo.config

from worker.engine.errors import is_lost_device, is_out_of_memory
from worker.engine.rows import Denoiser

log = structlog.get_logger()

Compile = Literal["off", "auto", "on"]

BACKEND = "inductor"

INDUCTOR = {"conv_1x1_as_mm": True}
"""As it was measured with on an H100 (docs/benchmarks.md)."""

MOST_COMPILES = 64
"""Of one function. torch gives up after eight, and raises where no part may be left to Python."""

Shapes = tuple[torch.Size, tuple[tuple[str, torch.Size], ...]]


def is_to_compile(compile: Compile, device: torch.device) -> bool:
    """A denoiser on that device, where `compile` was chosen. `auto` compiles on a GPU alone."""
    return compile == "on" or (compile == "auto" and device.type == "cuda")


class CannotCompile(Exception):
    """Says why, in one sentence for whoever set up the worker."""


class CompiledDenoiser:
    """Called like the `denoiser` (worker/engine/rows.py). `strict`: what cannot be compiled raises CannotCompile; else
    the log says so once, and nothing more is tried."""

    def __init__(self, denoiser: Denoiser, *, strict: bool) -> None:
        self._denoiser = denoiser
        self._strict = strict
        options: dict[str, Any] = {"options": INDUCTOR} if BACKEND == "inductor" else {}
        self._compiled = torch.compile(denoiser, fullgraph=True, dynamic=False, backend=BACKEND, **options)
        self._known: set[Shapes] = set()
        self._told: set[tuple[str, ...]] = set()
        self._is_compiling = False
        self.is_given_up = False
        self.sizes: list[int] = []
        """Rows of the calls that are compiled, the smallest first."""

    def __call__(self, x: torch.Tensor, t: torch.Tensor, rows: Mapping[str, torch.Tensor]) -> torch.Tensor:
        shapes = x.shape, tuple((name, tensor.shape) for name, tensor in rows.items())
        if shapes in self._known:
            # What torch would compile again all the same, it takes as it is.
            with torch.compiler.set_stance("eager_on_recompile"):
                return self._compiled(x, t, rows)
        if self._is_compiling and not self.is_given_up:
            return self._first(shapes, x, t, rows)
        if self._known:
            self._tell(x, rows)
        return self._denoiser(x, t, rows)

    @contextmanager
    def compiling(self) -> Iterator[None]:
        """What is called in this context, and was not before, is compiled."""
        limits = {"recompile_limit": MOST_COMPILES, "accumulated_recompile_limit": 4 * MOST_COMPILES}
        self._is_compiling = True
        try:
            # Torch's settings are those of a thread.
            with torch._dynamo.config.patch(limits):
                yield
        finally:
            self._is_compiling = False

    def _first(
        self, shapes: Shapes, x: torch.Tensor, t: torch.Tensor, rows: Mapping[str, torch.Tensor]
    ) -> torch.Tensor:
        """Compiles. Raises CannotCompile where that is an error, and what says that memory is full."""
        try:
            output: torch.Tensor = self._compiled(x, t, rows)
        except Exception as error:
            if is_out_of_memory(error) or is_lost_device(error):
                raise
            if self._strict:
                raise CannotCompile(f"the model cannot be compiled ({_reason(error)})") from error
            log.warning("the model cannot be compiled and is run as it is", reason=_reason(error))
            self.is_given_up = True
            return self._denoiser(x, t, rows)
        self._known.add(shapes)
        self.sizes = sorted({*self.sizes, len(x)})
        return output

    def _tell(self, x: torch.Tensor, rows: Mapping[str, torch.Tensor]) -> None:
        """Once of each kind."""
        if (names := tuple(rows)) not in self._told:
            self._told.add(names)
            log.info("a step is not compiled", rows=len(x), latents=list(x.shape[1:]), given=sorted(names))


def _reason(error: Exception) -> str:
    """In one line. torch's own begins with who raised, and says on the next what."""
    cause: Exception = getattr(error, "inner_exception", error)
    lines = str(cause).strip().splitlines()
    return f"{type(cause).__name__}: {lines[0]}" if lines else type(cause).__name__


def end_compilers() -> None:
    """The processes that inductor compiles in, each with a torch of its own: after warm-up nobody needs them."""
    if (module := sys.modules.get("torch._inductor.async_compile")) is not None:
        module.shutdown_compile_workers()
