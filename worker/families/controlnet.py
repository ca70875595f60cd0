"""ControlNets (Zhang et al. 2023, "Adding Conditional Control to Text-to-Image Diffusion Models") beside a UNet.

Knows diffusers' ControlNetModel and is the only place that calls it; knows how a request's control becomes a side
network of its pass. Knows no seats and no batches.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from threading import Lock
from typing import Any

import structlog
import torch
from diffusers.image_processor import VaeImageProcessor
from PIL import Image

from worker.engine.errors import GenerationFailed, engine_error
from worker.engine.request import Request
from worker.engine.sides import Side, SideNetwork
from worker.engine.transfer import to_device
from worker.families.unet import READ_BY_CONTROLNETS, as_arguments, as_residuals
from worker.models.bundle import Bundle
from worker.models.controlnets import ControlNetFile, load_controlnet
from worker.models.errors import ModelError
from worker.models.lending import Lending

log = structlog.get_logger()

EMBEDDED = "controlnet_cond"
"""The row tensor that the control picture becomes: what the network's own small encoder makes of it, once a request."""


class ControlNet:
    """A SideNetwork (worker/engine/sides.py), whose answers are added to the UNet's skip connections."""

    def __init__(self, network: Any, encoder: Any, *, file: ControlNetFile, sha256: str) -> None:
        """`network` is a ControlNetModel whose encoder of control pictures, which is `encoder`, was taken out."""
        self.file = file
        self.sha256 = sha256
        self.is_dropped = False
        self._is_placed = False
        self._network = network
        self._encoder = encoder
        self._again: list[Again] = []

    def mentioned(self, times: int) -> SideNetwork:
        """What a request asks that has named it so many times before: itself at first, and always the same ones."""
        self._again += [Again(self) for _ in range(times - len(self._again))]
        return self._again[times - 1] if times else self

    def put(self, place: Callable[[Any], Any]) -> None:
        """Where the model is, by `place`; once is enough. In the engine's thread: on a GPU, memory that another thread
        takes would spoil the step that is being captured."""
        if not self._is_placed:
            self._network, self._encoder = place(self._network), place(self._encoder)
            self._is_placed = True

    def encode(self, image: torch.Tensor) -> torch.Tensor:
        """[C, h, w] of a control picture from the host, float32 [3, H, W] of 0 to 1. It is the same in all steps."""
        weight = next(self._encoder.parameters())
        encoded: torch.Tensor = self._encoder(to_device(image[None].to(weight.dtype), weight.device))
        return encoded[0]

    def __call__(self, x: torch.Tensor, t: torch.Tensor, rows: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        arguments = as_arguments({name: tensor for name, tensor in rows.items() if name in READ_BY_CONTROLNETS})
        embedded = rows[EMBEDDED]
        down, middle = self._network(x.to(embedded.dtype), t, controlnet_cond=embedded, **arguments, return_dict=False)
        return as_residuals(down, middle)

    def in_float32(self) -> ControlNet:
        """Itself, or a copy that takes twice the memory, for as long as whoever asked keeps it."""
        if next(self._network.parameters()).dtype == torch.float32:
            return self
        network, encoder = (copy.deepcopy(each).float() for each in (self._network, self._encoder))
        return ControlNet(network, encoder, file=self.file, sha256=self.sha256)

    def drop(self) -> None:
        """Free the weights, whoever still knows of this network. No request may be drawn with it any more."""
        self.is_dropped = True
        self._network = self._encoder = None


class Again:
    """A SideNetwork: a ControlNet that a request names once more, with another picture or range. To the step it is
    another one, which keeps what it is given beside what the first one was."""

    def __init__(self, first: ControlNet) -> None:
        self._first = first

    @property
    def is_dropped(self) -> bool:
        return self._first.is_dropped

    def __call__(self, x: torch.Tensor, t: torch.Tensor, rows: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return self._first(x, t, rows)

    def in_float32(self) -> SideNetwork:
        copied = self._first.in_float32()
        return self if copied is self._first else copied


@dataclass(frozen=True, slots=True)
class Brought:
    """What a request wants of ControlNets, in memory: each with its picture, float32 [3, H, W] of 0 to 1."""

    networks: Sequence[ControlNet]
    images: Sequence[torch.Tensor]


class ControlNets:
    """Those that one model's requests may name, lent to them while they are open."""

    def __init__(self, bundle: Bundle) -> None:
        self._files = bundle.controlnets.files
        self._place, self._dtype = bundle.place, bundle.dtype
        self._images = VaeImageProcessor(
            vae_scale_factor=bundle.vae_scale_factor, do_convert_rgb=True, do_normalize=False
        )
        self._lending: Lending[ControlNet] = Lending(
            self._load, most=bundle.controlnets.kept, drop=ControlNet.drop, thread="controlnets"
        )
        self._lock = Lock()
        self._brought: dict[str, Future[Brought]] = {}

    def bring(self, request: Request) -> Future[Brought] | None:
        """Load what the request names, in another thread. None if it names nothing. Raises GenerationFailed."""
        if not request.control:
            return None
        names, most = [each.model for each in request.control], self._lending.most
        if unknown := [name for name in names if name not in self._files]:
            raise GenerationFailed(f"There is no ControlNet {unknown[0]} here.")
        if len(set(names)) > most:
            raise GenerationFailed(f"The request names {len(set(names))} ControlNets, and {most} can be used at once.")
        brought: Future[Brought] = Future()
        with self._lock:
            self._brought[request.id] = brought
        self._lending.borrow(request.id, names).add_done_callback(lambda lent: self._lent(request, lent, brought))
        return brought

    def close(self, request: Request) -> None:
        """The request has ended."""
        with self._lock:
            brought = self._brought.pop(request.id, None)
        if brought is not None:
            self._lending.give_back(request.id)

    def sides(self, request: Request, evaluations: int) -> list[Side]:
        """For a pass of so many evaluations, of a request whose networks are there. In the engine's thread."""
        if not request.control:
            return []
        brought, mentions = self._of(request), Counter[ControlNet]()
        sides = []
        for each, network, image in zip(request.control, brought.networks, brought.images, strict=True):
            network.put(self._place)
            asked, given = network.mentioned(mentions[network]), {EMBEDDED: network.encode(image)}
            sides.append(Side(asked, given, scales(evaluations, each.scale, each.start, each.end)))
            mentions[network] += 1
        return sides

    def drawn_with(self, request: Request) -> dict[str, Any]:
        """The sha256 of the weights of each ControlNet that the request names."""
        if not request.control:
            return {}
        return {"controlnets": {network.file.name: network.sha256 for network in self._of(request).networks}}

    def _of(self, request: Request) -> Brought:
        with self._lock:
            return self._brought[request.id].result(timeout=0)

    def _load(self, name: str) -> ControlNet:
        file = self._files[name]
        try:
            network, sha256 = load_controlnet(file, self._dtype)
        except ModelError as error:
            log.error("a ControlNet cannot be loaded", reason=str(error))
            raise GenerationFailed(f"The ControlNet {name} cannot be loaded; the worker's log says why.") from error
        encoder, network.controlnet_cond_embedding = network.controlnet_cond_embedding, torch.nn.Identity()
        if network.config.controlnet_conditioning_channel_order == "bgr":
            network.register_to_config(controlnet_conditioning_channel_order="rgb")
            encoder = torch.nn.Sequential(_Flipped(), encoder)
        return ControlNet(network, encoder, file=file, sha256=sha256)

    def _lent(self, request: Request, lent: Future[list[ControlNet]], brought: Future[Brought]) -> None:
        try:
            images = [self._image(request, each.image.sha256) for each in request.control]
            brought.set_result(Brought(lent.result(), images))
        except Exception as error:
            brought.set_exception(engine_error(error, stage="control"))

    def _image(self, request: Request, sha256: str) -> torch.Tensor:
        """As the stock pipeline reads a control picture: in the size of the picture that is drawn."""
        picture = Image.fromarray(request.pictures[sha256])
        read: torch.Tensor = self._images.preprocess(picture, height=request.height, width=request.width)
        return read[0]


class _Flipped(torch.nn.Module):
    """For networks that were trained on pictures of the order blue, green, red."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.flip(1)


def scales(evaluations: int, scale: float, start: float, end: float) -> list[float]:
    """The scale at each evaluation, 0 before and after: as StableDiffusionControlNetPipeline's controlnet_keep."""
    return [0.0 if i / evaluations < start or (i + 1) / evaluations > end else scale for i in range(evaluations)]
