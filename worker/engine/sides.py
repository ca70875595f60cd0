"""Side networks: what is asked beside the denoiser, for the rows that want it, and how the answers reach the others.

A step asks each network once, with the rows that want it at this evaluation and no others. What it says of a row, times
the row's scale, is added up over the networks and enters the denoiser as further row tensors. A neighbour has zeros
there, and where nobody wants one, the step is the one without. Who wants what is told by the host beforehand: nothing
here depends on a value. Knows shapes and names; refuses to know what the answers mean to the denoiser.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

from worker.engine.transfer import to_device

NOBODY = 0
"""The seat that is nobody's."""


class SideNetwork(Protocol):
    """Reads what the denoiser reads, and something of its own that was `given` for the sample."""

    @property
    def is_dropped(self) -> bool:
        """No request wants it any more: whatever is kept for it goes with the next step."""
        ...

    def __call__(
        self, x: torch.Tensor, t: torch.Tensor, rows: Mapping[str, torch.Tensor], /
    ) -> Mapping[str, torch.Tensor]:
        """Row tensors for the denoiser, [B, ...] by its names, of the same arguments as the denoiser's; `rows` holds
        what was given as well. Must not ask the device for anything."""
        ...

    def in_float32(self) -> SideNetwork: ...


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Side:
    """What a pass wants of a side network.

    `given` are tensors without the batch's dimension, on the device, alike for both rows of a sample. `scales` has one
    number for each evaluation of the pass; at 0 the network is not asked, so that 0 is the same as no network. Of a
    pass, no two have the same network.
    """

    network: SideNetwork
    given: Mapping[str, torch.Tensor]
    scales: Sequence[float]


Seats = Mapping[str, torch.Tensor]
"""What was given to one network, by name: [seats + 1, ...] each."""


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class SideRows:
    """The rows of one step that a network is asked for.

    `index` int64 [3, n]: the seat of each; its place among the step's rows; where its answer belongs, which is one
    behind the last row for those that only fill up. `scale` float32 [n].
    """

    network: SideNetwork
    seats: Seats
    index: torch.Tensor
    scale: torch.Tensor

    @property
    def signature(self) -> tuple[SideNetwork, int]:
        """Equal for what a captured step may be replayed with."""
        return self.network, len(self.scale)

    def on(self, device: torch.device) -> SideRows:
        return SideRows(self.network, self.seats, to_device(self.index, device), to_device(self.scale, device))

    def cloned(self) -> SideRows:
        return SideRows(self.network, self.seats, self.index.clone(), self.scale.clone())

    def fill(self, given: SideRows) -> None:
        """Take over the numbers of another one of this signature."""
        self.index.copy_(given.index, non_blocking=True)
        self.scale.copy_(given.scale, non_blocking=True)


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class AskedSide:
    """A network that a sample asks in this step, for all of its rows."""

    network: SideNetwork
    seats: Seats
    scale: float


def side_rows(
    asked: Sequence[tuple[int, Sequence[int], Sequence[AskedSide]]], *, rows: int, fill_up: Callable[[int], int]
) -> list[SideRows]:
    """One for each network that is asked: of samples with their seat, their places among the step's `rows`, and what
    they ask. `fill_up` says with how many rows a network is called for so many."""
    wanted: dict[SideNetwork, list[tuple[int, int, float]]] = {}
    seats = {}
    for seat, places, networks in asked:
        for each in networks:
            seats[each.network] = each.seats
            wanted.setdefault(each.network, []).extend((seat, place, each.scale) for place in places)
    return [_of_network(network, seats[network], lines, rows, fill_up) for network, lines in wanted.items()]


def _of_network(
    network: SideNetwork, seats: Seats, lines: list[tuple[int, int, float]], rows: int, fill_up: Callable[[int], int]
) -> SideRows:
    filling = fill_up(len(lines)) - len(lines)
    index = [(seat, place, place) for seat, place, _ in lines] + [(NOBODY, 0, rows)] * filling
    scale = [scale for _, _, scale in lines] + [0.0] * filling
    return SideRows(network, seats, torch.tensor(index).T.contiguous(), torch.tensor(scale))


def answers(
    sides: Sequence[SideRows], x: torch.Tensor, t: torch.Tensor, rows: Mapping[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    """What they say, scaled and added up: row tensors for all rows of the step. x [B, C, h, w], t [B]."""
    total: dict[str, torch.Tensor] = {}
    for side in sides:
        seat, place, target = side.index.unbind(0)
        own = {name: tensor.index_select(0, place) for name, tensor in rows.items()}
        own |= {name: kept.index_select(0, seat) for name, kept in side.seats.items()}
        said = side.network(x.index_select(0, place), t.index_select(0, place), own)
        for name, value in said.items():
            # In float32, as a scale that is a number of Python's is applied.
            scaled = value * side.scale.view(-1, *[1] * (value.dim() - 1))
            of_all = value.new_zeros(len(x) + 1, *value.shape[1:])
            of_all = of_all.index_copy(0, target, scaled.to(value.dtype))[:-1]
            total[name] = total[name] + of_all if name in total else of_all
    return total
