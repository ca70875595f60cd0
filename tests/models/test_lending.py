"""Weights are loaded once for all who want them, never more than there are places for, and nobody is passed over."""

from __future__ import annotations

import threading
from concurrent.futures import Future

import pytest

from tests.waiting import WAIT_SECONDS
from worker.models.lending import Lending


class Shelf:
    """Lends names of its things, in upper case, and writes down what it loads and drops."""

    def __init__(self, most: int) -> None:
        self.loaded: list[str] = []
        self.dropped: list[str] = []
        self.may_load = threading.Event()
        self.may_load.set()
        self.lending: Lending[str] = Lending(self._load, most=most, drop=self.dropped.append, thread="shelf")

    def _load(self, name: str) -> str:
        assert self.may_load.wait(WAIT_SECONDS)
        self.loaded.append(name)
        if name == "broken":
            raise OSError("no such file")
        return name.upper()

    def borrow(self, borrower: str, *names: str) -> Future[list[str]]:
        return self.lending.borrow(borrower, names)


def got(future: Future[list[str]]) -> list[str]:
    return future.result(timeout=WAIT_SECONDS)


def test_it_is_loaded_once_for_all_and_each_gets_what_it_named() -> None:
    shelf = Shelf(2)
    assert got(shelf.borrow("first", "a", "b", "a")) == ["A", "B", "A"]
    assert got(shelf.borrow("second", "b")) == ["B"]
    assert shelf.loaded == ["a", "b"]


def test_what_nobody_holds_stays_until_its_place_is_needed() -> None:
    shelf = Shelf(2)
    for borrower, name in (("1", "a"), ("2", "b"), ("3", "a")):
        got(shelf.borrow(borrower, name))
        shelf.lending.give_back(borrower)
    assert got(shelf.borrow("4", "c")) == ["C"]
    assert shelf.dropped == ["B"], "the one that was used longest ago"
    assert shelf.loaded == ["a", "b", "c"]


def test_where_all_places_are_held_they_wait_in_their_order() -> None:
    shelf = Shelf(1)
    got(shelf.borrow("first", "a"))
    second, third = shelf.borrow("second", "b"), shelf.borrow("third", "a")
    assert not second.done()
    assert not third.done(), "who wants what is there does not pass who has waited for longer"
    shelf.lending.give_back("first")
    assert got(second) == ["B"]
    assert not third.done()
    shelf.lending.give_back("second")
    assert got(third) == ["A"]
    assert shelf.dropped == ["A", "B"]


def test_who_gives_up_waiting_is_passed_over() -> None:
    shelf = Shelf(1)
    got(shelf.borrow("first", "a"))
    second, third = shelf.borrow("second", "b"), shelf.borrow("third", "c")
    shelf.lending.give_back("second")
    shelf.lending.give_back("first")
    assert got(third) == ["C"]
    assert not second.done()
    assert shelf.loaded == ["a", "c"]


def test_who_gives_back_while_it_is_loaded_leaves_it_for_the_next() -> None:
    shelf = Shelf(1)
    shelf.may_load.clear()
    first = shelf.borrow("first", "a")
    shelf.lending.give_back("first")
    second = shelf.borrow("second", "b")
    shelf.may_load.set()
    assert (got(first), got(second)) == (["A"], ["B"])
    assert shelf.dropped == ["A"]


def test_what_cannot_be_loaded_is_told_to_who_asked_and_takes_no_place() -> None:
    shelf = Shelf(1)
    broken = shelf.borrow("first", "broken")
    with pytest.raises(OSError, match="no such file"):
        got(broken)
    shelf.lending.give_back("first")
    assert got(shelf.borrow("second", "a")) == ["A"]
    assert shelf.dropped == []


def test_more_than_there_are_places_for_is_refused_at_once() -> None:
    shelf = Shelf(2)
    with pytest.raises(ValueError, match="only 2"):
        shelf.borrow("first", "a", "b", "c")
    assert got(shelf.borrow("second", "a")) == ["A"]
