"""What a prompt's brackets mean in each syntax, and what is read as letters although it is hardly meant like that.

Knows the forms of AUTOMATIC1111's syntax that people paste. Refuses to know what they do: see `a1111_syntax`.
"""

from __future__ import annotations

import re
from typing import Final

from app.contract.messages import a1111_syntax
from app.contract.messages.spec import PromptSyntax

_EDITING: Final = "[…:…:0.5]"
_LORA: Final = "<lora:…>"

_NUMBER: Final = r"(?:[0-9]++(?:\.[0-9]++)?|\.[0-9]++)\s*+"
"""Read in one way only, as all here has to be: what can be split in many ways is tried in all of them. A prompt of
2,000 characters, colons and digits, kept a worker from everything else for a minute."""

_IN_PLAIN: Final = {
    "weights such as (…:1.3)": re.compile(rf"\([^()]*:\s*+[-+]?{_NUMBER}\)"),
    "doubled brackets": re.compile(r"\(\(|\[\["),
    _EDITING: re.compile(rf"\[[^][:]*+:[^][]*:\s*+{_NUMBER}\]"),
    "BREAK": re.compile(r"\bBREAK\b"),
    _LORA: re.compile(r"<(?:lora|lyco|hypernet):[^<>]*>", re.IGNORECASE),
}
_IN_A1111: Final = {
    f"prompt editing such as {_EDITING}": re.compile(rf"\[[^][]*:\s*+{_NUMBER}\]"),
    "alternation such as […|…]": re.compile(r"\[[^][]*\|[^][]*\]"),
    "AND between prompts": re.compile(r"\bAND\b"),
    "<hypernet:…>": re.compile(r"<hypernet:[^<>]*>", re.IGNORECASE),
    # Those of the prompt became `loras` at the gateway; AUTOMATIC1111 reads none in a negative prompt either.
    _LORA: re.compile(r"<(?:lora|lyco):[^<>]*>", re.IGNORECASE),
}
_ESCAPED: Final = re.compile(r"\\[][()\\]")


def misunderstood(prompt: str, syntax: PromptSyntax, *, field: str) -> list[str]:
    """A warning of what has no effect in the prompt, if there is anything. `field` is what to call the prompt."""
    if syntax == "a1111":
        found = _forms(_ESCAPED.sub("", prompt), _IN_A1111)
        return [f"Not supported, and read as plain letters in the {field}: {', '.join(found)}."] if found else []
    found = _forms(prompt, _IN_PLAIN)
    if not found:
        return []
    warning = f"Read as plain letters in the {field}, without effect: {', '.join(found)}."
    if understood := [form for form in found if form != _EDITING]:
        those = "them" if understood == found else ", ".join(understood)
        warning += f' The parameter prompt_syntax: "a1111" has {those} read as AUTOMATIC1111 does.'
    return [warning]


def words_read(prompt: str, syntax: PromptSyntax) -> str:
    """The prompt without what is no word of it."""
    return a1111_syntax.words_of(prompt) if syntax == "a1111" else prompt


def _forms(prompt: str, known: dict[str, re.Pattern[str]]) -> list[str]:
    return [form for form, pattern in known.items() if pattern.search(prompt)]
