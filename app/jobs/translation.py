"""A request in the words of a dialect, on its way into ours: what means the same, and errors in their words.

Knows parameters by name. Refuses to know a dialect.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final

from pydantic import ValidationError

from app.contract.messages.params import JobRequest, ParamError, ParamsRejected
from app.contract.messages.patterns import said_of
from app.contract.messages.texts import MAX_PROMPT

LONGEST_PROMPT: Final = 32_000
"""Characters, as OpenAI has it. Programs that let a language model write their prompts count on it."""


class Wording:
    """`fields` are ours, as they were given. `put` adds what the caller said in other words."""

    def __init__(self, fields: dict[str, Any]) -> None:
        # Forms send an empty negative prompt for none. Who wants one to be read has our own API.
        self._fields = {name: value for name, value in fields.items() if (name, value) != ("negative_prompt", "")}
        self._theirs: dict[str, str] = {}
        self._parts: set[str] = set()
        """Ours that one word of theirs says together, such as the sides of a size: an error names which is meant."""
        self._twice: list[ParamError] = []

    def put(self, word: str, **ours: Any) -> None:
        """Their word, and what it says in ours."""
        self._parts |= {f"/{name}" for name in ours if len(ours) > 1}
        for name, value in ours.items():
            if self._fields.setdefault(name, value) == value:
                self._theirs[f"/{name}"] = f"/{word}"
            else:
                detail = f"is given as {word} as well, with another value"
                self._twice.append(ParamError(f"/{name}", "said_twice", detail))

    def parameters(self, **more: Any) -> JobRequest:
        """The job that is meant, with `more` of our fields.

        Raises ParamsRejected where two words say two things, and for values out of our bounds.
        """
        if self._twice:
            raise ParamsRejected(self._twice)
        try:
            return JobRequest(**self._fields, **more)
        except ValidationError as error:
            # Their words have other bounds than ours.
            raise ParamsRejected([_too_much(each) for each in error.errors()]) from None

    def in_their_words(self, error: ParamsRejected) -> ParamsRejected:
        """The same errors, at the parameters that the caller wrote."""
        return ParamsRejected([self._in_their_words(each) for each in error.errors])

    def _in_their_words(self, error: ParamError) -> ParamError:
        which = f"({error.pointer[1:]}) " if error.pointer in self._parts else ""
        return replace(error, pointer=self._their_pointer(error.pointer), detail=which + error.detail)

    def _their_pointer(self, ours: str) -> str:
        whole, below = ours, ""
        while whole and whole not in self._theirs:
            whole, _, part = whole.rpartition("/")
            below = f"/{part}{below}"
        return f"{self._theirs[whole]}{below}" if whole else ours


def _too_much(error: Any) -> ParamError:
    pointer = "".join(f"/{part}" for part in error["loc"])
    code = "out_of_range" if error["type"] in ("less_than_equal", "greater_than_equal") else error["type"]
    return ParamError(pointer, code, said_of(error))


def cut_to_length(prompt: str) -> str:
    """The part of a prompt that a job takes, up to the end of a word."""
    if len(prompt) <= MAX_PROMPT:
        return prompt
    cut = prompt[:MAX_PROMPT]
    return cut if prompt[MAX_PROMPT].isspace() else cut.rpartition(" ")[0] or cut


def length_warning(prompt: str, *, field: str) -> list[str]:
    """What to say of a prompt of which only a part is taken. `field` is what to call it."""
    kept = len(cut_to_length(prompt))
    cut = f"Only the first {kept:,} characters of the {field} were taken, of {len(prompt):,}."
    return [cut] if kept < len(prompt) else []


def linked(picture: str) -> dict[str, str]:
    """A picture that dialects write as one text, as a job refers to it: a link, else a data: URL or bare base64."""
    is_link = picture[:8].lower().startswith(("https://", "http://"))
    return {"url" if is_link else "b64": picture}


def sides(size: str) -> dict[str, int]:
    """Of "WxH"."""
    width, height = map(int, size.split("x"))
    return {"width": width, "height": height}
