"""Work that a thread does before its result is asked for."""

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar, overload

T = TypeVar("T")

_thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="ahead")


class Prefetched(Sequence[T]):
    """Items that one thread makes in order, all Aheads' after one another; an item is waited for where it is not there yet.

    What making an item raises is raised where it is asked for.
    """

    def __init__(self, makers: Iterable[Callable[[], T]]) -> None:
        self._coming = [_thread.submit(make) for make in makers]

    @overload
    def __getitem__(self, place: int) -> T: ...
    @overload
    def __getitem__(self, place: slice) -> Sequence[T]: ...
    def __getitem__(self, place: int | slice) -> T | Sequence[T]:
        if isinstance(place, slice):
            return [each.result() for each in self._coming[place]]
        return self._coming[place].result()

    def __len__(self) -> int:
        return len(self._coming)
