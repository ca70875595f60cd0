"""Weights that are loaded when somebody first wants them, and only so many at once.

Knows names and borrowers. Refuses to know what is lent and how it is loaded.
"""

from __future__ import annotations

import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Collection
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

T = TypeVar("T")


class Lending(Generic[T]):
    """Lends what `load` makes of a name, for any thread; loading itself has one thread of its own.

    At most `most` are in memory, counted by their `size`, or each as one. One that nobody holds stays for the next
    borrower; when its place is needed, the one that was used longest ago goes first, and `drop` hears of it. Where all
    places are held, who comes next waits, and all behind.
    """

    def __init__(
        self,
        load: Callable[[str], T],
        *,
        most: int,
        drop: Callable[[T], None],
        thread: str,
        size: Callable[[str], int] = lambda name: 1,
    ) -> None:
        self.most = most
        self._load = load
        self._size = size
        self._drop = drop
        self._loader = ThreadPoolExecutor(1, thread_name_prefix=thread)
        self._lock = threading.Lock()
        self._kept: OrderedDict[str, T] = OrderedDict()
        self._held: dict[str, frozenset[str]] = {}
        self._queue: deque[tuple[str, tuple[str, ...], Future[list[T]]]] = deque()

    def borrow(self, borrower: str, names: Collection[str]) -> Future[list[T]]:
        """One for each of `names`, until the borrower gives back. The future raises what `load` does.

        Raises ValueError for more than can ever be in memory together.
        """
        if self._of(names) > self.most:
            raise ValueError(f"{self._of(names)} at once, and only {self.most} are kept in memory")
        future: Future[list[T]] = Future()
        with self._lock:
            self._queue.append((borrower, tuple(names), future))
            self._serve()
        return future

    def give_back(self, borrower: str) -> None:
        """Whatever this one holds or waits for. Somebody who has borrowed nothing changes nothing."""
        with self._lock:
            self._held.pop(borrower, None)
            self._queue = deque(waiting for waiting in self._queue if waiting[0] != borrower)
            self._serve()

    def _serve(self) -> None:
        """Those in the queue's front for whom there are places. With the lock held."""
        while self._queue:
            borrower, names, future = self._queue[0]
            held = frozenset[str]().union(*self._held.values())
            if self._of(held.union(names)) > self.most:
                return
            self._queue.popleft()
            self._held[borrower] = frozenset(names)
            self._loader.submit(self._bring, names, future)

    def _bring(self, names: tuple[str, ...], future: Future[list[T]]) -> None:
        try:
            brought = [self._get(name) for name in names]
        except Exception as error:
            future.set_exception(error)
        else:
            future.set_result(brought)

    def _get(self, name: str) -> T:
        """In the loader's thread, which alone adds to what is kept and takes from it."""
        with self._lock:
            known = self._kept.get(name)
            if known is not None:
                self._kept.move_to_end(name)
                return known
            dropped = self._make_a_place(name)
        for each in dropped:
            self._drop(each)
        loaded = self._load(name)
        with self._lock:
            self._kept[name] = loaded
        return loaded

    def _make_a_place(self, newcomer: str) -> list[T]:
        """For one more. With the lock held."""
        held = frozenset[str]().union(*self._held.values())
        dropped: list[T] = []
        for name in [name for name in self._kept if name not in held]:
            if self._of({*self._kept, newcomer}) <= self.most:
                break
            dropped.append(self._kept.pop(name))
        return dropped

    def _of(self, names: Collection[str]) -> int:
        """The size of all of them together."""
        return sum(map(self._size, set(names)))
