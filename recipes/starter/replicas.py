"""A batch in parts, each on a core of its own with a copy of the networks; the gradients are the parts' mean.

Knows threads and parameters; knows no loss. For CPUs: threads that share one layer wait for each other several thousand
times a step, and a core that is lent to other work holds up all of them. On two cores beside a test run the shared way
was measured at 4 samples/s, 29 when idle threads may sleep (OMP_WAIT_POLICY=passive), and one part alone at 28.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import torch

Part = TypeVar("Part")


class Replicas:
    """Copies of `model`, which has `modules` by name; the first of them is `model` itself.

    One copy runs where it is called, with all threads that torch has; several run with one each.
    """

    def __init__(self, model: Any, count: int) -> None:
        self.models = [model, *(copy.deepcopy(model) for _ in range(count - 1))]
        self._pool = ThreadPoolExecutor(count, "replica", torch.set_num_threads, (1,)) if count > 1 else None

    def backward(self, loss_of: Callable[[Any, Part], torch.Tensor], parts: Sequence[Part]) -> torch.Tensor:
        """Leave the mean of the parts' gradients in the first model, and return the mean loss.

        `parts` are one for each copy. `loss_of` is called in several threads at once.
        """
        each = map if self._pool is None else self._pool.map
        losses = list(each(lambda model, part: _backward(model, part, loss_of), self.models, parts))
        first, *others = (_parameters(model) for model in self.models)
        for weight, *copies in zip(first, *others, strict=True):
            if copies and weight.grad is not None:
                weight.grad.add_(sum(twin.grad for twin in copies)).div_(len(parts))
        return torch.stack(losses).mean()

    def spread(self) -> None:
        """Give all copies the weights of the first, after an update."""
        first, *others = (_parameters(model) for model in self.models)
        with torch.no_grad():
            for weights in others:
                torch._foreach_copy_(weights, first)

    def close(self) -> None:
        if self._pool:
            self._pool.shutdown()


def _backward(model: Any, part: Part, loss_of: Callable[[Any, Part], torch.Tensor]) -> torch.Tensor:
    for weight in _parameters(model):
        weight.grad = None
    loss = loss_of(model, part)
    loss.backward()
    return loss.detach()


def _parameters(model: Any) -> list[torch.nn.Parameter]:
    return [weight for module in model.modules.values() for weight in module.parameters() if weight.requires_grad]
