"""The LoRAs of a model, as its requests use them: lent while a request is open, and in the bank from its first step on.

Knows who has which columns of the bank. Knows no layers, and no rows but their two tensors.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from threading import Lock
from typing import Any

import structlog
import torch

from app.contract.messages.inputs import MOST_LORAS
from worker.engine.errors import GenerationFailed
from worker.engine.request import Request
from worker.engine.rows import Some
from worker.engine.transfer import to_device
from worker.families.lora_bank import COLUMNS, SCALES, LoraBank, filled_up
from worker.models.adapters import bank_columns, bank_paths
from worker.models.errors import ModelError
from worker.models.lending import Lending
from worker.models.lora_file import Factors, LoraFile, load_lora

log = structlog.get_logger()


@dataclass(slots=True, eq=False)
class Loaded:
    """A LoRA that has been read. `columns` of the bank are its own once it is in there."""

    file: LoraFile
    sha256: str
    parts: dict[str, Mapping[str, Factors]]
    columns: Sequence[int] | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Chosen:
    """What a request has of its LoRAs: tensors of its rows; what its prompts are read with, by text encoder, each with
    its weight; and the sha256 of the files by name."""

    some: Mapping[str, Some] = field(default_factory=dict)
    texts: tuple[tuple[str, float], ...] = ()
    sha256: Mapping[str, str] = field(default_factory=dict)


class Adapters:
    """`files` by name; those that change the UNet share a bank in it, which is made here."""

    def __init__(self, files: Mapping[str, LoraFile], unet: Any, *, dtype: torch.dtype, device: torch.device) -> None:
        self._files = files
        self._dtype, self._device = dtype, device
        ranks = sorted((file.rank for file in files.values()), reverse=True)
        self._most_of_a_row = filled_up(sum(ranks[:MOST_LORAS]))
        columns = bank_columns(files)
        self.bank = LoraBank(unet, bank_paths(files), columns=1 + columns) if columns else None
        self._free = list(range(columns, 0, -1))
        # One without any rank in the UNet takes a place as well: as many as there are columns may be kept.
        self._lending: Lending[Loaded] = Lending(
            self._load,
            most=max(columns, MOST_LORAS),
            size=lambda name: self._files[name].rank,
            drop=self._drop,
            thread="loras",
        )
        self._lock = Lock()
        self._lent: dict[str, Future[list[Loaded]]] = {}
        self._texts: dict[str, Loaded] = {}

    @property
    def nbytes(self) -> int:
        return 0 if self.bank is None else self.bank.nbytes

    def bring(self, request: Request) -> Future[list[Loaded]] | None:
        """Read what the request names, in another thread. None if it names nothing. Raises GenerationFailed."""
        if not request.loras:
            return None
        for lora in request.loras:
            if lora.name not in self._files:
                raise GenerationFailed(f"There is no LoRA {lora.name} here.")
        lent = self._lending.borrow(request.id, tuple(dict.fromkeys(lora.name for lora in request.loras)))
        with self._lock:
            self._lent[request.id] = lent
        return lent

    def close(self, request: Request) -> None:
        """The request has ended. What the device still has to do for it was sent off before anything that comes now."""
        with self._lock:
            lent = self._lent.pop(request.id, None)
        if lent is not None:
            self._lending.give_back(request.id)

    def chosen(self, request: Request) -> Chosen:
        """For a request whose LoRAs have been brought. In the engine's thread: what is not in the bank is put there."""
        if not request.loras:
            return Chosen()
        with self._lock:
            loaded = self._lent[request.id].result(timeout=0)
        for each in loaded:
            self._put(each)
        weights = {each.file.name: 0.0 for each in loaded}
        for lora in request.loras:
            # What is named twice counts with both weights.
            weights[lora.name] += lora.weight
        texts = tuple((each.sha256, weights[each.file.name]) for each in loaded if each.file.reads_text)
        some = self._some([(column, weights[each.file.name]) for each in loaded for column in each.columns or ()])
        return Chosen(some, texts, {each.file.name: each.sha256 for each in loaded})

    def of_text(self, part: str, sha256: str) -> Mapping[str, Factors]:
        """What a LoRA that some open request has changes in this text encoder."""
        return self._texts[sha256].parts.get(part, {})

    def _put(self, loaded: Loaded) -> None:
        if loaded.file.reads_text:
            self._texts[loaded.sha256] = loaded
        if loaded.columns is not None or self.bank is None or not loaded.file.rank:
            return
        with self._lock:
            loaded.columns = [self._free.pop() for _ in range(loaded.file.rank)]
        self.bank.put(loaded.columns, loaded.parts.pop("unet"))

    def _some(self, own: Sequence[tuple[int, float]]) -> dict[str, Some]:
        """Column 0 and scale 0 where the row has no more."""
        if not own:
            return {}
        columns = torch.zeros(self._most_of_a_row, dtype=torch.int64)
        scales = torch.zeros(self._most_of_a_row, dtype=self._dtype)
        columns[: len(own)] = torch.tensor([column for column, _ in own])
        scales[: len(own)] = torch.tensor([scale for _, scale in own])
        used = filled_up(len(own))
        return {
            name: Some(to_device(values, self._device), used) for name, values in ((COLUMNS, columns), (SCALES, scales))
        }

    def _load(self, name: str) -> Loaded:
        try:
            weights = load_lora(self._files[name])
        except (ModelError, OSError) as error:
            log.error("a LoRA cannot be read", reason=str(error))
            raise GenerationFailed(f"The LoRA {name} cannot be read; the worker's log says why.") from error
        return Loaded(self._files[name], weights.sha256, dict(weights.parts))

    def _drop(self, loaded: Loaded) -> None:
        """Nobody has it: its columns go to the next one."""
        self._texts.pop(loaded.sha256, None)
        with self._lock:
            self._free += loaded.columns or ()


OfText = Callable[[str, str], Mapping[str, Factors]]
"""Factors of the layers of a text encoder, by its part's name and the sha256 of a LoRA."""
