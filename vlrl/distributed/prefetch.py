"""Prepares items in a background thread before they are needed."""

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar, overload

T = TypeVar("T")

# One thread for the whole process, so that several sequences are made one after another and never compete for cores.
_thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="prefetch")


class Prefetched(Sequence[T]):
    """Items that one thread makes in order. Reading an item waits until it is made, and raises what making it raised."""

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
