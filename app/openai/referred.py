"""An edit whose body is JSON: its pictures are named, by data: URLs, links and ids, instead of being files of a form.

https://developers.openai.com/api/reference/resources/images/methods/edit, EditImageBodyJsonParam. The official clients
send forms. Knows which name is what. Refuses to know what is drawn of it.
"""

from __future__ import annotations

from typing import Any

from fastapi import Request

from app.contract.messages.inputs import ImageReference
from app.contract.messages.params import ParamsRejected
from app.edge.auth import Caller
from app.edge.bodies import JSON
from app.edge.errors import MalformedJson
from app.edge.guard import body_of
from app.edge.strict_json import parse_json
from app.jobs.translation import Wording, linked
from app.openai.masks import as_read_here
from app.openai.pictures import IMAGE, MASK, OURS, in_their_words, refuse_not_drawn, validated
from app.openai.schemas import ImageEditInJson, ImageRef
from app.services import Services


class ReferredPictures:
    """The pictures of one request."""

    def __init__(self, body: ImageEditInJson, request: Request) -> None:
        self._body = body
        self._taken_out = body_of(request.scope)

    @classmethod
    async def read(cls, request: Request) -> tuple[ImageEditInJson, ReferredPictures]:
        """The request, and its pictures. Raises MalformedJson and RequestValidationError."""
        said = parse_json(await request.body())
        if not isinstance(said, dict):
            raise MalformedJson("The body is no JSON object.")
        body = validated(said, ImageEditInJson)
        return body, cls(body, request)

    async def keep(
        self, wording: Wording, model: str | None, services: Services, caller: Caller, idempotency_key: str | None
    ) -> None:
        """Put them into the job that is meant, the mask as it is read here, if its model takes them.

        Raises ParamsRejected, in the caller's words, and what Inputs.add does.
        """
        names = [IMAGE, MASK] if self._body.mask is not None else [IMAGE]
        await refuse_not_drawn({name: OURS[name] for name in names}, model, services, caller, idempotency_key)
        [image] = self._body.images
        wording.put(f"images/0/{_word(image)}", **{OURS[IMAGE]: _reference(image)})
        if self._body.mask is not None:
            word = f"{MASK}/{_word(self._body.mask)}"
            wording.put(word, **{OURS[MASK]: {"sha256": await self._mask(word, services, caller)}})

    async def _mask(self, word: str, services: Services, caller: Caller) -> str:
        reference = ImageReference(**_reference(self._body.mask or ImageRef()))
        try:
            stored = await services.references.keep(
                reference, f"/{word}", caller.tenant, self._taken_out, clean=as_read_here
            )
        except ParamsRejected as error:
            raise in_their_words(Wording({}), error) from None
        return stored.sha256


def is_json(request: Request) -> bool:
    """Whether the body is JSON. The guard has seen that it is one of the types that are taken."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower() == JSON


def in_json() -> dict[str, Any]:
    """For `openapi_extra`: the body in JSON, beside a form."""
    schema = ImageEditInJson.model_json_schema(ref_template="#/components/schemas/{model}")
    definitions = schema.pop("$defs")
    schema["properties"]["images"]["items"] = definitions["ImageRef"]
    schema["properties"]["mask"]["anyOf"][0] = definitions["ImageRef"]
    return {JSON: {"schema": schema}}


def _word(ref: ImageRef) -> str:
    return "file_id" if ref.file_id is not None else "image_url"


def _reference(ref: ImageRef) -> dict[str, Any]:
    return {"input": ref.file_id} if ref.file_id is not None else linked(ref.image_url or "")
