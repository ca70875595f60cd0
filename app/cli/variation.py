"""What a picture that is varied was drawn with, from its own record. Refuses to know how the variation is drawn."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Self

from app.cli.answers import meant
from app.cli.client import CommandError, Service
from app.cli.exits import REFUSED
from app.cli.plain import plain
from app.cli.records import same_weights
from app.contract.messages.fit_points import VARIATION
from app.contract.messages.from_pictures import STRENGTH_OF_A_VARIATION
from app.contract.messages.kept_spec import asked_again
from app.contract.messages.picture_record import PictureError, RecordMissing, read_record

ITS_OWN: Final = {
    "prompt", "model", "seed", "image", "mask_image", "mask_blur", "strength", "output_format", "output_quality",
}  # fmt: skip
"""Parameters of the picture that a variation does not repeat, or finds elsewhere."""

OF_POINTS: Final = {"image_embedding", "prior", "start"}
"""What such a picture was drawn from, in whose place it is put itself."""


@dataclass(frozen=True, slots=True)
class Origin:
    """The record of a picture; empty for one that was made elsewhere."""

    record: dict[str, Any]

    @classmethod
    def of(cls, name: str, data: bytes) -> Self:
        """Of the file that was called so. Raises CommandError for a picture that is broken, or whose record is."""
        try:
            record = read_record(data)
        except RecordMissing:
            return cls({})
        except PictureError as error:
            raise CommandError(f"{name}: {error.detail}", REFUSED) from None
        if not isinstance(record.get("prompt"), str):
            said = "the picture's darkroom record has no prompt: it was changed after it was made"
            raise CommandError(f"{name}: {said}", REFUSED)
        return cls(record)

    @property
    def prompts(self) -> list[str]:
        """What the picture shows; none where it does not say so."""
        return [self.record["prompt"]] if self.record else []

    async def variation(self, service: Service, asked: Mapping[str, Any]) -> Variation:
        """How the service draws one, by the model that is asked for, or has drawn the picture. Raises CommandError."""
        served = await service.models()
        model = asked.get("model") or (same_weights(self.record, served) if self.record else None)
        card = meant(served, model)
        is_its_own = bool(self.record) and card.get("sha256") == self.record.get("model_hash")
        if self.record and model is None:
            said = f"no model here has the weights of {plain(self.record.get('model'))}; the default one draws"
            print(f"darkroom vary: {said}", file=sys.stderr)
        named = {} if model is None else {"model": model}
        again = {name: value for name, value in asked_again(self.record).items() if name not in ITS_OWN}
        if VARIATION in card.get("tasks", ()) and "strength" not in asked:
            kept = {name: value for name, value in again.items() if name not in OF_POINTS}
            return Variation((kept if is_its_own else {}) | named, from_embedding=True)
        return Variation(again | {"strength": STRENGTH_OF_A_VARIATION} | named, from_embedding=False)


@dataclass(frozen=True, slots=True)
class Variation:
    """Members of the request for one. `from_embedding`: the picture's embedding stands for it, and for a prompt."""

    members: dict[str, Any]
    from_embedding: bool
