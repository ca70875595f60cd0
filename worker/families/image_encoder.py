"""Pictures as vectors: what a CLIP's image tower (Radford et al. 2021) makes of them, for models that draw from that.

Knows transformers' CLIPVisionModelWithProjection, and prepares pictures as the folder's feature_extractor says. Refuses
to know what is drawn from a vector.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from typing import Any

import numpy as np
import torch

from worker.engine.errors import EngineError
from worker.engine.isolate import isolate
from worker.engine.transfer import to_device
from worker.families.inputs import on_white
from worker.models.bundle import Bundle

REMEMBERED = 256
"""Embeddings: variations of one picture, and the ends of a way, come back. At most 5 MB of them."""


class ImageEncoder:
    """Of one model. For the engine's thread, except `bring` and `close`.

    Where the network is a part that is seldom in memory, it is loaded while a request waits that names pictures, and
    dropped when no such request is open any more.
    """

    def __init__(self, bundle: Bundle) -> None:
        self._network = bundle.others.get("image_encoder")
        self._place = bundle.place
        self._lending = bundle.seldom["image_encoder"].lending if "image_encoder" in bundle.seldom else None
        self._preparation = bundle.part("feature_extractor")
        self._device, self._dtype = bundle.device, bundle.dtype
        self._recent: OrderedDict[tuple[str, bool], torch.Tensor] = OrderedDict()

    def bring(self, borrower: str) -> list[Future[Any]]:
        """What a request that names pictures has to wait for."""
        return [self._lending.borrow(borrower)] if self._lending else []

    def close(self, borrower: str) -> None:
        """The request has ended, whether it named any or not."""
        if self._lending:
            self._lending.give_back(borrower)

    def read(self, pictures: Mapping[str, np.ndarray], *, alone: bool = False) -> dict[str, torch.Tensor | EngineError]:
        """The embedding of each picture, uint8 [H, W, 3 or 4], by its name: float32 [D] on the device, or what went
        wrong. `alone`: each is encoded by itself, since the last bits depend on the company. Raises DeviceLost."""
        names = [(name, alone) for name in pictures]
        missing = [name for name in names if name not in self._recent]
        found: dict[tuple[str, bool], torch.Tensor | EngineError] = {}
        for batch in [[each] for each in missing] if alone else [missing]:
            made = isolate([pictures[name] for name, _ in batch], self._encode, name="encode")
            found |= zip(batch, made, strict=True)
        self._recent |= {name: each for name, each in found.items() if isinstance(each, torch.Tensor)}
        answer = {name[0]: found[name] if name in found else self._recent[name] for name in names}
        for name in names:
            if name in self._recent:
                self._recent.move_to_end(name)
        while len(self._recent) > REMEMBERED:
            self._recent.popitem(last=False)
        return answer

    def _encode(self, pictures: Sequence[np.ndarray]) -> Sequence[torch.Tensor]:
        network: Any = self._lending.lent(self._place) if self._lending else self._network
        pixels = [np.array(on_white(picture)) for picture in pictures]
        prepared = [self._preparation(to_device(torch.from_numpy(each), self._device)) for each in pixels]
        embeddings: torch.Tensor = network(torch.stack(prepared).to(self._dtype)).image_embeds
        return embeddings.float().unbind()
