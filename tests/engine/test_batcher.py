"""Who steps together. No model and no tensor is needed to test fairness."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from hypothesis import given
from hypothesis import strategies as st

from worker.engine.batcher import Batcher, in_parts
from worker.engine.deep import Depth


@dataclass(frozen=True)
class Road:
    """A lane. Equal names are one lane."""

    name: str
    row_cost: float = 1.0
    most_rows: int | None = None


@dataclass(eq=False)
class Sitter:
    """Rows of the outermost layers cost a tenth."""

    lane: Road = field(default_factory=lambda: Road("a"))
    rows: int = 1
    depth: Depth = Depth.WHOLE
    can_wait: bool = False

    @property
    def cost(self) -> float:
        return self.rows * self.lane.row_cost * (0.1 if self.depth is Depth.OUTER else 1)


def test_nobody_seated_nobody_chosen() -> None:
    assert Batcher().choose([]) == []


def test_a_lane_steps_as_a_whole_and_equal_lanes_take_turns() -> None:
    a, b, c = (Sitter(Road(name)) for name in "abc")
    batcher = Batcher()
    assert [batcher.choose([a, b, c]) for _ in range(7)] == [[a], [b], [c], [a], [b], [c], [a]]
    both = [Sitter(), Sitter()]
    assert Batcher().choose(both) == both


def test_large_pictures_do_not_starve_small_ones() -> None:
    """Six times as dear a row, a sixth of the turns: each lane gets half of the device."""
    small, large = Sitter(Road("small", row_cost=803), rows=2), Sitter(Road("large", row_cost=4674), rows=2)
    batcher = Batcher()
    turns = Counter(batcher.choose([large, small])[0].lane.name for _ in range(700))
    assert 0.95 < turns["large"] * 4674 / (turns["small"] * 803) < 1.05


def test_a_fuller_batch_waits_longer_for_its_next_turn() -> None:
    crowd, lone = [Sitter(Road("crowd"), rows=2) for _ in range(4)], Sitter(Road("lone"), rows=2)
    batcher = Batcher()
    turns = ["lone" if batcher.choose([*crowd, lone]) == [lone] else "crowd" for _ in range(50)]
    assert 38 <= turns.count("lone") <= 42


def test_the_profiles_rows_bound_a_step_and_the_oldest_go() -> None:
    road = Road("a", most_rows=5)
    sitters = [Sitter(road, rows) for rows in (2, 2, 2, 1)]
    assert Batcher().choose(sitters) == sitters[:2], "a younger one does not slip in before an older one"
    assert Batcher().choose([Sitter(Road("a", most_rows=1), rows=2)]), "nobody is too large to go alone"


def test_so_many_rows_of_the_whole_network_and_as_many_of_its_outermost_layers() -> None:
    road = Road("a", most_rows=4)
    whole, keeping, outer, late = (
        [Sitter(road, 2, depth) for _ in range(3)] for depth in (Depth.WHOLE, Depth.KEEPING, Depth.OUTER, Depth.OUTER)
    )
    seated = [whole[0], *outer, keeping[0], whole[1], late[0]]
    chosen = Batcher().choose(seated)
    assert chosen == [whole[0], *outer[:2], keeping[0]]
    assert in_parts(chosen) == [[whole[0], keeping[0]], outer[:2]]


def test_a_lane_of_outer_rows_is_charged_for_what_they_cost() -> None:
    outer, whole = Sitter(Road("outer"), depth=Depth.OUTER), Sitter(Road("whole"))
    batcher = Batcher()
    turns = Counter(batcher.choose([outer, whole])[0].lane.name for _ in range(110))
    assert 8 <= turns["outer"] / turns["whole"] <= 12


def test_a_cap_takes_the_oldest_and_ends_when_the_lane_has_been_empty() -> None:
    sitters = [Sitter() for _ in range(5)]
    batcher = Batcher()
    batcher.choose(sitters)
    batcher.lower_cap(sitters[0].lane, 5)
    assert batcher.choose(sitters) == sitters[:2]
    batcher.lower_cap(sitters[0].lane, 1)
    assert batcher.choose(sitters) == sitters[:1]
    batcher.choose([])
    assert batcher.choose(sitters) == sitters


@given(st.lists(st.sampled_from("abcd"), min_size=60, max_size=60))
def test_short_visits_do_not_starve_a_long_stay(visitors: str) -> None:
    """Every step a new one-step sample of some lane walks in. The long one waits for the other lanes once, at most."""
    batcher, long = Batcher(), Sitter(Road("long"))
    seated, waited = [long], 0
    for lane in visitors:
        seated.append(Sitter(Road(lane)))
        chosen = batcher.choose(seated)
        waited = 0 if long in chosen else waited + 1
        assert waited <= 4
        seated = [sitter for sitter in seated if sitter is long or sitter not in chosen]


@given(
    st.lists(st.tuples(st.sampled_from("abcd"), st.integers(1, 2)), min_size=40, max_size=120),
    st.fixed_dictionaries({name: st.floats(1, 8) for name in "abcd"}),
)
def test_nobody_waits_for_more_than_the_others_dearest_turns(
    arrivals: list[tuple[str, int]], costs: dict[str, float]
) -> None:
    """Whatever arrives: while a lane waits, each other one is served for at most two of the dearest turns there are."""
    batcher, seated = Batcher(), [Sitter(Road("waiting", row_cost=1.0), rows=2)]
    waiting, served = seated[0], Counter[str]()
    dearest = max(costs.values()) * 4
    for name, rows in arrivals:
        seated.append(Sitter(Road(name, costs[name], most_rows=4), rows))
        chosen = batcher.choose(seated)
        if waiting in chosen:
            served.clear()
            continue
        served[chosen[0].lane.name] += sum(sitter.rows for sitter in chosen) * chosen[0].lane.row_cost
        assert max(served.values()) <= 2 * dearest
        seated = [sitter for sitter in seated if sitter not in chosen]


def test_samples_that_can_wait_get_a_fifth_beside_others() -> None:
    """Also as one of them in a lane of its own, whose steps are the cheapest of all."""
    crowd, waiting = [Sitter(Road("crowd")) for _ in range(4)], Sitter(Road("alone"), can_wait=True)
    batcher = Batcher()
    spent: Counter[str] = Counter()
    for _ in range(500):
        chosen = batcher.choose([waiting, *crowd])
        spent[chosen[0].lane.name] += len(chosen)
    assert 3.8 < spent["crowd"] / spent["alone"] < 4.2
    assert batcher.choose([waiting]) == [waiting], "and all of it where nobody else is"


def test_a_newcomer_who_cannot_wait_does_not_wait_for_those_who_can() -> None:
    """A step of theirs is charged four times: what comes then has its first one as soon as without them."""
    hasty, waiting = Sitter(Road("a"), rows=2), [Sitter(Road("b"), rows=2, can_wait=True) for _ in range(8)]
    for steps in range(1, 40):
        batcher, newcomer, others = Batcher(), Sitter(Road("c"), rows=2), 0
        for _ in range(steps):
            batcher.choose([hasty, *waiting])
        while newcomer not in batcher.choose([hasty, *waiting, newcomer]):
            others += 1
        assert others <= 2, steps


def test_in_a_lane_that_is_too_full_those_step_first_who_cannot_wait_and_the_others_do_not_starve() -> None:
    road = Road("a", most_rows=2)
    waiting, hasty = [Sitter(road, can_wait=True) for _ in range(2)], [Sitter(road) for _ in range(2)]
    batcher = Batcher()
    turns = [batcher.choose([*waiting, *hasty]) for _ in range(50)]
    assert 9 <= turns.count(waiting) <= 11
    assert turns.count(hasty) == 50 - turns.count(waiting)


def test_in_a_lane_with_room_all_step() -> None:
    waiting, hasty = Sitter(can_wait=True), Sitter()
    batcher = Batcher()
    assert all({*batcher.choose([waiting, hasty])} == {waiting, hasty} for _ in range(10))
