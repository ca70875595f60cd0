"""Texts of a fixed form: the pattern that a field declares, and what is said to whoever wrote another one.

Knows patterns and pydantic's errors. Refuses to know where the fields are.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

TENANT_NAME: Final = r"[a-z0-9][a-z0-9_-]{0,63}"

ASPECT_RATIO: Final = r"^[1-9][0-9]?:[1-9][0-9]?$"
SIZE: Final = r"^[1-9][0-9]{1,3}x[1-9][0-9]{1,3}$"
SIZE_OR_AUTO: Final = r"^(auto|[1-9][0-9]{1,4}x[1-9][0-9]{1,4})$"
INPUT_ID: Final = r"^in_[0-9a-z]{24,30}$"
WHOLE_JOB_ID: Final = r"^job_[0-9a-z]{24}$"
JOB_ID_PREFIX: Final = r"^job_[0-9a-f]{4,24}(z[0-9a-z]{0,5})?$"
"""Four of its digits at least: of ten thousand jobs not one in a thousand has the same."""
SHA256: Final = r"^[0-9a-f]{64}$"
TENANT: Final = f"^{TENANT_NAME}$"
ONE_LINE: Final = r"^[^\x00-\x1f\x7f]*$"

WORDS: Final[Mapping[str, str]] = {
    ASPECT_RATIO: "must be two numbers from 1 to 99, such as 16:9",
    SIZE: "must be width x height in pixels, such as 512x512",
    SIZE_OR_AUTO: "must be width x height in pixels, such as 512x512, or auto",
    INPUT_ID: "must be the id that the answer to an upload has, which begins with in_",
    WHOLE_JOB_ID: "must be the whole id of a job, which begins with job_",
    JOB_ID_PREFIX: "must be the beginning of a job's id: job_ and four characters at least",
    SHA256: "must be a SHA-256: 64 characters of 0-9 and a-f",
    TENANT: "must be 1 to 64 characters of a-z, 0-9, - and _, a letter or digit first",
    ONE_LINE: "must be one line without control characters",
}


def said_of(error: Any) -> str:
    """The sentence of one of pydantic's errors."""
    pattern = error["ctx"]["pattern"] if error["type"] == "string_pattern_mismatch" else ""
    return WORDS.get(pattern) or str(error["msg"]).removeprefix("Value error, ")
