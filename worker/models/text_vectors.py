"""What a scorer makes of texts, of which those asked for last are remembered: the same words come again and again.

Knows texts and vectors. Refuses to know how one is made of the other.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence

import torch

REMEMBERED = 4_096
"""16 MiB with 1,024 numbers each."""


class TextVectors:
    """For one thread. `forward` makes the vectors of texts that are not remembered, one for each."""

    def __init__(self, forward: Callable[[Sequence[str]], Iterable[torch.Tensor]]) -> None:
        self._forward = forward
        self._known: OrderedDict[str, torch.Tensor] = OrderedDict()

    def of(self, texts: Sequence[str]) -> dict[str, torch.Tensor]:
        """Of each text its vector. Raises what `forward` does."""
        new = [text for text in dict.fromkeys(texts) if text not in self._known]
        if new:
            self._known.update(zip(new, self._forward(new), strict=True))
        found = {text: self._known[text] for text in texts}
        for text in found:
            self._known.move_to_end(text)
        while len(self._known) > REMEMBERED:
            self._known.popitem(last=False)
        return found
