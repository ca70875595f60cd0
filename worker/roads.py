"""Where the claimed jobs of one model go, as whoever claims sees it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from app.contract.redis.ownership import Claim


class Road(Protocol):
    """Where the claimed jobs of one model go."""

    @property
    def free_seats(self) -> int: ...
    @property
    def seats_for_interactive(self) -> int:
        """The free ones, and those that batch jobs would leave."""

    def begin(self, claim: Claim, /) -> None: ...
    def go_on(self) -> None:
        """Nobody else wants the seats that are free now: jobs take them that had been put aside."""

    def cancel(self, token: str, /) -> None: ...
    def park(self, token: str, /) -> None: ...


@dataclass(slots=True)
class Line:
    """One model whose jobs are claimed: where they go, and when Redis was last asked for one. While it rests, none is
    claimed."""

    road: Road
    asked_at: float = float("-inf")
    rests: bool = False
    interactive_only: bool = False
    """It was asked for interactive jobs alone, for which a seat can be made: none was free."""
