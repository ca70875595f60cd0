"""Bodies of refusals in each dialect, as the OpenAPI shows them. Knows shapes; refuses to know what is refused."""

from __future__ import annotations

from pydantic import BaseModel, Field


class FieldError(BaseModel):
    """One thing to correct."""

    pointer: str | None = Field(default=None, description="JSON pointer into the body")
    parameter: str | None = Field(default=None, description="Name in the query, header or path")
    code: str
    detail: str


class OpenAIErrorBody(BaseModel):
    """What is wrong, in the words of OpenAI's clients."""

    message: str
    type: str
    param: str | None
    code: str | None


class ProblemView(BaseModel):
    """RFC 9457. `type` is a page that explains it."""

    type: str
    title: str
    status: int
    detail: str
    instance: str
    errors: list[FieldError] | None = None
    location: str | None = Field(default=None, description="Where to ask instead, in an answer 421 `other-cell`")
    error: OpenAIErrorBody | None = Field(
        default=None, description="The same for OpenAI's own clients, told by their header `x-stainless-lang`"
    )


class OpenAIError(BaseModel):
    """An error of the routes that OpenAI's clients use."""

    error: OpenAIErrorBody


class HuggingFaceError(BaseModel):
    """An error of the route that Hugging Face's client uses."""

    error: str = Field(description="A sentence for a person")
    error_type: str = Field(description="Its kind: /problems/{error_type} explains it")


class WebUiError(BaseModel):
    """An error of the routes that clients of AUTOMATIC1111's web UI use."""

    error: str = Field(description="Its kind: /problems/{error} explains it")
    detail: str = Field(description="A sentence for a person")
    errors: str = Field(description="The same, of every field that is wrong")
    body: str = ""
