"""The forms with pictures that OpenAI's clients send: their fields, and their files, which become the caller's inputs.
JSON that names pictures instead is in referred.py.

Knows which part is what. Refuses to know what is drawn of it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Final, TypeVar

from anyio import CapacityLimiter, to_thread
from fastapi import Request
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError

from app.contract.messages.params import ParamError, ParamsRejected, refuse_not_taken
from app.contract.messages.picture_record import PictureError, read_record
from app.edge.auth import Caller
from app.edge.bodies import FORM, JSON, WITH_PICTURES, Body, BodyRule
from app.edge.forms import FORM_OVERHEAD, Form, read_form
from app.edge.guard import body_of
from app.jobs.admission import REFUSALS
from app.jobs.translation import Wording
from app.openai.form import as_json
from app.openai.masks import as_read_here
from app.openai.schemas import ImageRequest, ImageVariation
from app.pictures.clean_picture import UnfitPicture
from app.pictures.cleaners import cleaned
from app.services import Services

Asked = TypeVar("Asked", bound=ImageRequest)

IMAGE: Final = "image"
MASK: Final = "mask"
OURS: Final = {IMAGE: "image", MASK: "mask_image"}
"""Files by the name that OpenAI's clients give them, and whose place they take in a job."""

AS_POINT: Final = {IMAGE: "image_embedding"}
"""The same of a picture that a model draws from by its embedding."""

FILES: Final = {
    IMAGE: "The picture to begin with: PNG, JPEG or WebP",
    MASK: "A picture of the same shape: what is transparent in it is repainted",
}

WORDS: Final = ("prompt", "negative_prompt", "prompt_syntax")
"""What a variation repeats of the record of the picture that it varies."""

READ_AT_ONCE: Final = 2
"""Forms, by one process: each is in memory twice while it is taken apart."""

_WAYS: Final = re.compile(r"(/of)?/sha256$|(?<=/image_url)/(b64|url)$|(?<=/file_id)/input$")
"""Ends of pointers that say how we name a picture, where the caller knows only that it is one."""

_LIST: Final = re.compile(r"\[[0-9]{0,2}\]$")

_reading = CapacityLimiter(READ_AT_ONCE)


def body_rules(most_bytes: int) -> dict[str, BodyRule]:
    """What the bodies of such requests may be, by path."""
    form = {FORM: len(OURS) * most_bytes + FORM_OVERHEAD}
    return {
        "/v1/images/edits": BodyRule(form | {JSON: WITH_PICTURES}, taken_out=frozenset({"image_url", "b64"})),
        "/v1/images/variations": BodyRule(form),
    }


class PictureForm:
    """The form of one request. It stays where the guard keeps bodies: it is read once for its fields, and again for
    each file when that is cleaned, so that what waits is not in memory."""

    def __init__(self, body: Body | None, content_type: str, files: Sequence[str]) -> None:
        self._body = body
        self._files = files
        self._content_type = content_type
        self._names: list[str] = []
        self.places: Mapping[str, str] = OURS
        """Of its files in the job."""

    @classmethod
    def of(cls, request: Request, files: Sequence[str] = (IMAGE, MASK)) -> PictureForm:
        """`files` are the names that mean something."""
        return cls(body_of(request.scope), request.headers.get("content-type", ""), files)

    async def read(self, model: type[Asked]) -> Asked:
        """Its fields as a request. Raises MalformedForm, ParamsRejected and RequestValidationError."""
        form = await to_thread.run_sync(self._form, limiter=_reading)
        self._names = [_known(part.name) for part in form.files]
        if errors := [*_unfit(form, self._names, self._files)]:
            raise ParamsRejected(errors)
        return validated(as_json(form.fields, model), model)

    async def words(self) -> dict[str, Any]:
        """The prompts that its picture was drawn with, as its file tells; none, if that has no record of ours."""
        return await to_thread.run_sync(self._words, limiter=_reading)

    async def keep(
        self, wording: Wording, model: str | None, services: Services, caller: Caller, idempotency_key: str | None
    ) -> None:
        """Make its files inputs of the caller's and put them into the job that is meant, if its model takes them.

        Raises ParamsRejected, in the caller's words, and what Inputs.add does.
        """
        places = self.places
        await refuse_not_drawn({name: places[name] for name in self._names}, model, services, caller, idempotency_key)
        for name in self._names:
            try:
                read = partial(self._file, name, services.inputs.most_bytes)
                clean = as_read_here if name == MASK else cleaned
                stored, _ = await services.inputs.add(read, caller.tenant, clean=clean)
            except UnfitPicture as error:
                raise ParamsRejected([ParamError(f"/{name}", error.code, error.detail)]) from None
            reference = {"sha256": stored.sha256}
            wording.put(name, **{places[name]: {"of": reference} if places is AS_POINT else reference})

    def _words(self) -> dict[str, Any]:
        if IMAGE not in self._names:
            return {}
        try:
            record = read_record(self._part(IMAGE))
        except PictureError:
            return {}
        found: dict[str, Any] = {name: record[name] for name in WORDS if name in record}
        try:
            # A stranger's file may hold anything.
            ImageVariation.model_validate(found)
        except ValidationError:
            return {}
        return found if found.get("prompt") else {}

    def _form(self) -> Form:
        return read_form(self._body.read() if self._body else b"", self._content_type)

    def _part(self, name: str) -> bytes:
        [data] = [part.data for part in self._form().files if _known(part.name) == name]
        return data

    def _file(self, name: str, most_bytes: int) -> bytes:
        data = self._part(name)
        if len(data) > most_bytes:
            raise UnfitPicture("too_large", f"has more than {most_bytes} bytes")
        return data


async def refuse_not_drawn(
    places: Mapping[str, str], model: str | None, services: Services, caller: Caller, idempotency_key: str | None
) -> None:
    """Raise ParamsRejected, in the caller's words, and what a choice of a model does, if it would not draw from
    pictures in these places, by the caller's names: nothing is kept of those. A key that has brought a job in is no
    reason to look: whatever has become of the model, it is answered by that job if the pictures are the same.
    """
    try:
        card = (await services.models.choose(model)).card
        refuse_not_taken({place: name for name, place in places.items()}, card)
    except REFUSALS as refusal:
        if idempotency_key is not None and await services.admission.brought_in(idempotency_key, caller) is not None:
            return
        if not isinstance(refusal, ParamsRejected):
            raise
        theirs = {f"/{place}": f"/{name}" for name, place in places.items()}
        raise ParamsRejected(
            [replace(each, pointer=theirs.get(each.pointer, each.pointer)) for each in refusal.errors]
        ) from None


def in_their_words(wording: Wording, error: ParamsRejected) -> ParamsRejected:
    """The same errors, at the fields and files that the caller sent: there, a picture is one of those."""
    said = wording.in_their_words(error).errors
    return ParamsRejected([replace(each, pointer=_WAYS.sub("", each.pointer)) for each in said])


def form_of(
    model: type[ImageRequest], *, files: Iterable[str] = OURS, other: dict[str, Any] | None = None
) -> dict[str, Any]:
    """For `openapi_extra`: the body as a form, and what `other` has beside it. What is nested is JSON there, or in
    brackets."""
    schema = model.model_json_schema(ref_template="#/components/schemas/{model}")
    # POST /v1/images/generations has the same, and brings them into the document.
    schema.pop("$defs", None)
    about = schema["properties"] | {
        name: {"type": "string", "format": "binary", "description": FILES[name]} for name in files
    }
    schema |= {"properties": about, "required": [*schema.get("required", []), IMAGE]}
    return {"requestBody": {"required": True, "content": {FORM: {"schema": schema}} | (other or {})}}


def validated(values: Any, model: type[Asked]) -> Asked:
    """The request that they are. Raises RequestValidationError, as for a body that FastAPI reads."""
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise RequestValidationError(
            [{**each, "loc": ("body", *each["loc"])} for each in error.errors(include_url=False)]
        ) from None


def _known(part: str) -> str:
    """The name of a file without the brackets that stand for a list."""
    return _LIST.sub("", part)


def _unfit(form: Form, names: list[str], known: Sequence[str]) -> Iterator[ParamError]:
    """What is wrong with its files, before anybody looks into one."""
    texts = [_known(name) for name, text in form.fields if not text.startswith("{")]
    for name in known:
        if name in texts:
            yield ParamError(f"/{name}", "not_a_file", f"must be a file (with curl: -F {name}=@picture.png)")
        elif names.count(name) > 1:
            detail = f"is {names.count(name)} files: this service draws from one picture at a time"
            yield ParamError(f"/{name}", "too_many", detail)
    if IMAGE not in names and IMAGE not in [name for name, _ in form.fields]:
        yield ParamError(f"/{IMAGE}", "missing", "is needed: the picture to begin with, as a file in the form")
    if set(names) - set(known):
        yield ParamError("", "unknown_file", f"has a file that has no meaning here; known are {' and '.join(known)}")
