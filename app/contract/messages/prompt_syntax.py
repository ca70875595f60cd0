"""What other programs read as commands in a prompt, and this one reads as letters.

Knows the forms of AUTOMATIC1111's syntax that people paste. Refuses to know what they would do.
"""

from __future__ import annotations

import re
from typing import Final

_FORMS: Final = {
    "weights such as (…:1.3)": re.compile(r"\([^()]*:\s*[-+]?[0-9]*\.?[0-9]+\s*\)"),
    "doubled brackets": re.compile(r"\(\(|\[\["),
    "[…:…:0.5]": re.compile(r"\[[^][]*:[^][]*:\s*[0-9]*\.?[0-9]+\s*\]"),
    "BREAK": re.compile(r"\bBREAK\b"),
    "<lora:…>": re.compile(r"<(?:lora|lyco|hypernet):[^<>]*>", re.IGNORECASE),
}


def read_as_letters(prompt: str, *, field: str) -> list[str]:
    """A warning of what in the prompt has no effect, if there is anything. `field` is what to call the prompt."""
    found = [form for form, pattern in _FORMS.items() if pattern.search(prompt)]
    if not found:
        return []
    return [f"Read as plain letters in the {field}, without effect: {', '.join(found)}."]
