"""Pictures as vectors: what a CLIP's image tower (Radford et al. 2021) makes of them, for models that draw from that.

Knows transformers' CLIPVisionModelWithProjection, and prepares pictures as the folder's feature_extractor says. Refuses
to know what is drawn from a vector.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
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


_Name = tuple[str, bool]
"""Of a picture, and whether it was encoded by itself."""


class ImageEncoder:
    """Of one model. For whoever has the device's turn, except `bring` and `close`.

    Where the network is a part that is seldom in memory, it is loaded while a request waits that names pictures, and
    dropped when no such request is open any more.
    """

    def __init__(self, bundle: Bundle) -> None:
        self._network = bundle.others.get("image_encoder")
        self._place = bundle.place
        self._lending = bundle.seldom["image_encoder"].lending if "image_encoder" in bundle.seldom else None
        self._preparation = bundle.part("feature_extractor")
        self._device, self._dtype = bundle.device, bundle.dtype
        self._lock = threading.Lock()
        self._recent: OrderedDict[_Name, torch.Tensor] = OrderedDict()
        self._relied_on: dict[str, set[_Name]] = {}

    def bring(self, borrower: str, pictures: Iterable[str], *, alone: bool = False) -> list[Future[Any]]:
        """What a request that names these pictures has to wait for: nothing where what the network said of them is
        remembered. Then it stays so until the request is closed."""
        if self._lending is None:
            return []
        names = {(name, alone) for name in pictures}
        with self._lock:
            if names <= self._recent.keys():
                self._relied_on[borrower] = names
                return []
        return [self._lending.borrow(borrower)]

    def close(self, borrower: str) -> None:
        """The request has ended, whether it named any or not."""
        if self._lending is None:
            return
        with self._lock:
            self._relied_on.pop(borrower, None)
        self._lending.give_back(borrower)

    def read(self, pictures: Mapping[str, np.ndarray], *, alone: bool = False) -> dict[str, torch.Tensor | EngineError]:
        """The embedding of each picture, uint8 [H, W, 3 or 4], by its name: float32 [D] on the device, or what went
        wrong. `alone`: each is encoded by itself, since the last bits depend on the company. Raises DeviceLost."""
        names = [(name, alone) for name in pictures]
        missing = [name for name in names if name not in self._recent]
        found: dict[_Name, torch.Tensor | EngineError] = {}
        for batch in [[each] for each in missing] if alone else [missing]:
            made = isolate([pictures[name] for name, _ in batch], self._encode, name="encode")
            found |= zip(batch, made, strict=True)
        answer = {name[0]: found[name] if name in found else self._recent[name] for name in names}
        self._remember({name: each for name, each in found.items() if isinstance(each, torch.Tensor)}, used=names)
        return answer

    def _remember(self, made: Mapping[_Name, torch.Tensor], *, used: Sequence[_Name]) -> None:
        with self._lock:
            self._recent |= made
            for name in used:
                if name in self._recent:
                    self._recent.move_to_end(name)
            kept = set().union(*self._relied_on.values())
            passing = [name for name in self._recent if name not in kept]
            for name in passing[: max(0, len(self._recent) - REMEMBERED)]:
                del self._recent[name]

    def _encode(self, pictures: Sequence[np.ndarray]) -> Sequence[torch.Tensor]:
        network: Any = self._lending.lent(self._place) if self._lending else self._network
        pixels = [np.array(on_white(picture)) for picture in pictures]
        prepared = [self._preparation(to_device(torch.from_numpy(each), self._device)) for each in pixels]
        embeddings: torch.Tensor = network(torch.stack(prepared).to(self._dtype)).image_embeds
        return embeddings.float().unbind()
