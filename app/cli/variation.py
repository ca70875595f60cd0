"""What a picture that is varied was drawn with, from its own record. Refuses to know how the variation is drawn."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any, Final, Self

from app.cli.client import CommandError, Service
from app.cli.exits import REFUSED
from app.cli.plain import plain
from app.cli.records import same_weights
from app.contract.messages.from_pictures import STRENGTH_OF_A_VARIATION
from app.contract.messages.kept_spec import asked_again
from app.contract.messages.picture_record import PictureError, RecordMissing, read_record

ITS_OWN: Final = {
    "prompt", "model", "seed", "image", "mask_image", "mask_blur", "strength", "output_format", "output_quality",
}  # fmt: skip
"""Parameters of the picture that a variation does not repeat, or finds elsewhere."""


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
        """What the picture shows. Raises CommandError where it does not say so."""
        if not self.record:
            raise CommandError("the picture carries no darkroom record: give a prompt", REFUSED)
        return [self.record["prompt"]]

    async def settings(self, service: Service) -> dict[str, Any]:
        """Members of the request for a variation. Raises CommandError."""
        again = {name: value for name, value in asked_again(self.record).items() if name not in ITS_OWN}
        if not self.record:
            return {"strength": STRENGTH_OF_A_VARIATION}
        model = same_weights(self.record, await service.models())
        if model is None:
            said = f"no model here has the weights of {plain(self.record.get('model'))}; the default one draws"
            print(f"darkroom vary: {said}", file=sys.stderr)
        return again | {"strength": STRENGTH_OF_A_VARIATION} | ({} if model is None else {"model": model})
