"""Which requests can do with fewer evaluations of their model: those whose other parameters bear it.

Knows parameters. Refuses to know models: what they cannot do, their cards do not take.
"""

from __future__ import annotations

from collections.abc import Iterator

from app.contract.messages.deep_cache import interval_of
from app.contract.messages.parameter import Fault
from app.contract.messages.spec import PictureSpec

WALKED_BACK = "goes without start inverted: what is carried back to noise is drawn the same way"


def unfit_for_fewer(spec: PictureSpec) -> Iterator[Fault]:
    """Parameters that save evaluations, beside others that would no longer mean what they say."""
    is_cached = interval_of(spec.cache) > 1
    if spec.start == "inverted" and spec.guidance_end < 1:
        yield "/guidance_end", "not_with_inversion", WALKED_BACK
    if spec.start == "inverted" and is_cached:
        yield "/cache", "not_with_inversion", WALKED_BACK
    if spec.control and is_cached:
        yield "/cache", "not_with_control", "goes without control: a ControlNet changes what is not kept, too"
