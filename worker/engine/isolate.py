"""Run a stage on a batch so that a failure strikes only the item that caused it.

Knows nothing of what the items are. Relies on one thing: a stage that raised has changed nothing and may be repeated.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import structlog

from worker.engine.errors import EngineError, OutOfMemory, engine_error

log = structlog.get_logger()

Item = TypeVar("Item")
Result = TypeVar("Result")


def isolate(
    items: Sequence[Item],
    stage: Callable[[Sequence[Item]], Sequence[Result]],
    *,
    name: str,
    on_out_of_memory: Callable[[Sequence[Item]], None] = lambda items: None,
) -> list[Result | EngineError]:
    """`stage(items)`, with an EngineError in the place of each item for which even a call of its own fails.

    After an out-of-memory error the batch is halved, after any other one the items run alone. `on_out_of_memory`
    hears of each batch that was too big. Raises DeviceLost.
    """
    if not items:
        return []
    try:
        return list(stage(items))
    except Exception as error:
        # Only the verdict is kept: the exception's traceback would hold the failed call's tensors in memory.
        verdict = engine_error(error, stage=name)
    if isinstance(verdict, OutOfMemory):
        log.warning("out of memory", stage=name, batch=len(items))
        on_out_of_memory(items)
    if len(items) == 1:
        return [verdict]
    size = (len(items) + 1) // 2 if isinstance(verdict, OutOfMemory) else 1
    parts = [items[start : start + size] for start in range(0, len(items), size)]
    return [result for part in parts for result in isolate(part, stage, name=name, on_out_of_memory=on_out_of_memory)]
