"""What the engine needs of a family of models. Protocols only: the families are in worker/families.

A family turns a request into passes, and the last latents into pixels. All it knows of the engine is this file, and
what passes and rows are made of.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch

from worker.engine.errors import EngineError
from worker.engine.passes import Pass
from worker.engine.posterior import Posterior
from worker.engine.request import Request
from worker.engine.rows import LaneKey
from worker.engine.solver import Schedule, SolverFactory


class Autoencoder(Protocol):
    """Between pixels and latents, on the model's device. Images are [B, 3, H, W] of -1 to 1."""

    pixels_per_latent: int
    """Along each side of a picture."""

    def encode(self, images: torch.Tensor) -> Posterior:
        """The distribution of latents [B, C, h, w] of images from the host."""
        ...

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """Images of float32 latents [B, C, h, w]. Not finite where the network's type is too small for them."""
        ...

    def in_float32(self) -> Autoencoder: ...

    def picture_bytes(self, height: int, width: int) -> float:
        """That decoding one picture needs beside the weights; sides are in latents."""
        ...


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Inputs:
    """Pictures that came in with a request, as its family wants them, on the host. `pictures`, float32 [3, H, W] of -1
    to 1 and all of one size, are to be encoded. `repainted`: where they are, bool [1, h, w]; None without a mask."""

    pictures: Sequence[torch.Tensor] = ()
    repainted: torch.Tensor | None = None


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Asked:
    """A request, and what was made of it before its family prepares it: the solvers of its schedules, its inputs, and
    what the autoencoder made of their pictures, in their order."""

    request: Request
    solvers: Sequence[SolverFactory]
    inputs: Inputs = field(default_factory=Inputs)
    encoded: Sequence[Posterior] = ()


@dataclass(frozen=True, slots=True)
class Prepared:
    """What a request comes to: its passes, in their order, and what whoever asked should know of them.

    `drawn_with` is what a picture's record says of the files that it was drawn with beside the model, as JSON has it.
    """

    passes: Sequence[Pass]
    warnings: Sequence[str] = ()
    drawn_with: Mapping[str, Any] = field(default_factory=dict)


class Family(Protocol):
    """One model in memory, of a family that the engine serves."""

    device: torch.device
    autoencoder: Autoencoder
    """What finishes the latents of the last pass."""

    native: LaneKey
    """Where the dearest pass of a picture of the model's own size is denoised: what warm-up measures."""

    weights_bytes: float
    """That the model itself takes of memory."""

    later_bytes: float
    """That weights may take which are brought in for requests, at most."""

    def schedules(self, request: Request) -> Sequence[Schedule]:
        """One for each pass, in their order. In any thread. Raises GenerationFailed for what the model has not."""
        ...

    def inputs(self, request: Request) -> Inputs:
        """The request's pictures, made ready. In any thread. Raises GenerationFailed for what the model cannot do with
        them."""
        ...

    def bring(self, request: Request) -> Sequence[Future[Any]]:
        """Bring what the request needs beside the model, such as the weights of an adapter, in threads of the family's.
        The request waits until the futures are done, and others pass. In any thread. Raises GenerationFailed."""
        ...

    def close(self, request: Request) -> None:
        """The request has ended: what was brought may go. In any thread, also for one that nothing was brought for."""
        ...

    def prepare(self, asked: Sequence[Asked]) -> Sequence[Prepared | EngineError]:
        """One answer for each. In the engine's thread, between two steps: what several requests need of the same
        network is asked of it at once. Raises DeviceLost."""
        ...
