"""Which texts a person may send: what every text encoder can read, and what says something at all.

Knows Unicode. Refuses to know what a text is for.
"""

from __future__ import annotations

import unicodedata
from typing import Annotated

from pydantic import AfterValidator, Field
from pydantic_core import PydanticCustomError

MAX_PROMPT = 2_000
MAX_NAME = 64


def _readable(text: str) -> str:
    """Refuse what no text encoder can read: NUL, and surrogates that have no UTF-8 form."""
    if "\x00" in text:
        raise PydanticCustomError("nul_character", "must not contain a NUL character")
    if any(0xD800 <= ord(char) <= 0xDFFF for char in text):
        raise PydanticCustomError("lone_surrogate", "must be valid Unicode; it contains a lone surrogate")
    return text


def _says_something(text: str) -> str:
    """Refuse prompts made of white space and invisible characters (Unicode categories Z, C) only."""
    if all(unicodedata.category(char)[0] in "ZC" for char in text):
        raise PydanticCustomError("blank_prompt", "must contain a visible character")
    return text


def _named(text: str) -> str:
    """Refuse an empty name: it comes from a variable that nobody filled, and would draw with a model nobody chose."""
    if not text:
        raise PydanticCustomError("empty_name", "is empty; leave it out for the default")
    return text


READABLE, VISIBLE = AfterValidator(_readable), AfterValidator(_says_something)
Text = Annotated[str, Field(max_length=MAX_PROMPT), READABLE]
Name = Annotated[str, Field(max_length=MAX_NAME, json_schema_extra={"minLength": 1}), AfterValidator(_named)]
