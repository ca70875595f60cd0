"""How fair an order of turns is among callers.

Knows costs and callers. Refuses to know queues.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

Turn = tuple[str, float]
"""Whose job was claimed, and what it costs."""

PART = 0.75
"""How much of all work is done when it is looked at who had what."""


@dataclass(frozen=True, slots=True)
class Fairness:
    """A caller's fair share is what max-min fairness (Bertsekas, Gallager 1992) gives it of the work done so far.

    `jain`: Jain's index (Jain, Chiu, Hawe 1984) of what callers had, each in its fair shares: 1/n to 1. `ahead`,
    `behind`: by how much the most favoured had more and the most disadvantaged less than its share, in jobs of the
    largest cost; start-time fair queueing (Goyal, Vin, Cheng 1996) keeps any two within 2. `first_turn`: after how many
    turns the last caller had its first, as a share of all callers: 1 if nobody has two before everybody has one.
    """

    jain: float
    ahead: float
    behind: float
    first_turn: float


def fairness(turns: Sequence[Turn]) -> Fairness:
    """Of all turns in their order. All jobs have to have been waiting from the beginning, and to cost something."""
    wanted, first = defaultdict[str, float](float), dict[str, int]()
    for place, (caller, cost) in enumerate(turns, 1):
        wanted[caller] += cost
        first.setdefault(caller, place)
    served = _served(turns, PART * sum(wanted.values()))
    level = _level(wanted.values(), sum(served.values()))
    fair = {caller: min(whole, level) for caller, whole in wanted.items()}
    largest = max(cost for _, cost in turns)
    over = [(served[caller] - share) / largest for caller, share in fair.items()]
    return Fairness(
        jain=jain([served[caller] / share for caller, share in fair.items()]),
        ahead=max(over),
        behind=-min(over),
        first_turn=max(first.values()) / len(first),
    )


def jain(shares: Sequence[float]) -> float:
    """(sum of x)^2 / (n * sum of x^2): 1 if all are equal, 1/n if one has everything. Not for nobody or nothing."""
    return sum(shares) ** 2 / (len(shares) * sum(share * share for share in shares))


def _served(turns: Sequence[Turn], work: float) -> Mapping[str, float]:
    served, done = defaultdict[str, float](float), 0.0
    for caller, cost in turns:
        if done >= work:
            break
        served[caller] += cost
        done += cost
    return served


def _level(wanted: Iterable[float], work: float) -> float:
    """What each may have at most so that all together have `work`: who wants less leaves the rest to the others."""
    ascending = sorted(wanted)
    for place, want in enumerate(ascending):
        share = work / (len(ascending) - place)
        if want >= share:
            return share
        work -= want
    return ascending[-1]
