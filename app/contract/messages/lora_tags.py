"""LoRA tags in a prompt, as AUTOMATIC1111's wiki has them ("Extra networks"): `<lora:name:weight>`, taken out and made
entries of `loras`.

Knows how they are written. Refuses to know which adapters there are.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Final

from pydantic import ValidationError

from app.contract.messages.inputs import AskedLora, Loras
from app.contract.messages.request_body import RequestBody
from app.contract.messages.texts import VISIBLE, Text

_TAG: Final = re.compile(r"<(?:lora|lyco):([^>]+)>", re.IGNORECASE)


class WrongTag(ValueError):
    """Tags that cannot be done. `code` is the rule; the message a sentence without its subject, the prompt."""

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(detail)
        self.code = code


@dataclass(frozen=True, slots=True)
class Untagged:
    """A prompt without its tags; all loras, those of the tags last; and how many were `given` without a tag."""

    prompt: str
    loras: Sequence[AskedLora]
    given: int

    def where(self, pointer: str, detail: str) -> tuple[str, str]:
        """JSON pointer and sentence of an error, at the tag if it is about one: `pointer` is into the loras here."""
        found = re.match(r"/loras(?:/([0-9]+))?", pointer)
        at = int(found[1] or 0) if found else -1
        if not self.given <= at < len(self.loras):
            return pointer, detail
        return "/prompt", f"has <lora:{self.loras[at].name}>, which {detail}"


class _Meant(RequestBody):
    prompt: Annotated[Text, VISIBLE]
    loras: Loras


def untagged(prompt: str, loras: Sequence[AskedLora]) -> Untagged:
    """The prompt without its tags, in the order of which they follow the `loras` of the request. Raises WrongTag."""
    tags = [_read(found[1]) for found in _TAG.finditer(prompt)]
    if not tags:
        return Untagged(prompt, loras, len(loras))
    try:
        meant = _Meant.model_validate({"prompt": _TAG.sub("", prompt).strip(), "loras": [*loras, *tags]})
    except ValidationError as error:
        raise _wrong(error.errors()[0]) from None
    return Untagged(meant.prompt, meant.loras, len(loras))


def _read(arguments: str) -> dict[str, Any]:
    name, *numbers = (part.strip() for part in arguments.split(":"))
    try:
        [weight] = map(float, numbers or ["1"])
    except ValueError:
        shape = "<lora:name> or <lora:name:weight>, with one number"
        raise WrongTag("lora_tag", f"has <lora:{arguments}>; it must be {shape}") from None
    return {"name": name, "weight": weight}


def _wrong(error: Any) -> WrongTag:
    """What is wrong with the loras that the tags make, or with a prompt of nothing but tags."""
    which = "has nothing but LoRA tags: it" if error["loc"][0] == "prompt" else "has LoRA tags whose loras are refused:"
    return WrongTag(error["type"], f"{which} {error['msg'][0].lower()}{error['msg'][1:]}")
