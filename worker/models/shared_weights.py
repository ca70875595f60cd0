"""Weights that two networks in memory have in common are kept once.

Stable Diffusion 1.x reads prompts with the text tower of CLIP ViT-L/14, and its safety checker looks with the vision
tower of the same. Finetunes share the shapes and not the values, so values are compared, in the type they are kept in.
Storage is shared and no module: whatever changes how one network runs leaves the other alone.
"""

from __future__ import annotations

import torch


def share(network: torch.nn.Module, *, of: torch.nn.Module) -> int:
    """Let the weights of one tower lie where those of the other do that are equal. How many bytes are free for it."""
    theirs, freed = dict(_named(of)), 0
    for name, mine in _named(network):
        lent = _equal_part(mine, theirs[name]) if name in theirs else None
        if lent is not None:
            freed += mine.nbytes
            mine.data = lent
    return freed


def _named(network: torch.nn.Module) -> list[tuple[str, torch.nn.Parameter]]:
    """With the names that both have: a tower may be a network of its own or lie in one."""
    return [(f".{name}".rpartition("_model.")[2].lstrip("."), each) for name, each in network.named_parameters()]


def _equal_part(mine: torch.Tensor, theirs: torch.Tensor) -> torch.Tensor | None:
    """What of the other tensor is this one; None where nothing is. A text encoder with learned words has more rows."""
    if mine.dtype != theirs.dtype or mine.device != theirs.device or mine.ndim != theirs.ndim or not mine.ndim:
        return None
    part = theirs.data[: len(mine)]
    if part.data_ptr() == mine.data_ptr() or part.shape != mine.shape or not torch.equal(part, mine):
        return None
    return part
