"""Counts the bytes of a computation's tensors while it runs, on real tensors or on fake ones, which have shapes and no memory."""

from collections.abc import Iterator
from typing import Any
from weakref import ref

import torch
from torch import Tensor
from torch._subclasses import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

_grouped_mm = torch.ops.aten._grouped_mm.default
_MULTIPLE = {"cpu": 1, "cuda": 512}  # bytes of an allocation are a multiple of it


class FakeTensors(FakeTensorMode):
    """Tensors made in it are fake, but whole numbers keep their values: sizes of images and masks decide what is computed."""

    def may_turn_const(self, t: Tensor) -> bool:
        return type(t) is Tensor and not t.is_floating_point() and not t.is_meta

    def whole_numbers(self, values: Tensor) -> Tensor:
        """A fake tensor of these values."""
        return self.fake_tensor_converter.from_real_tensor(self, values, make_constant=True)


class LiveBytes(TorchDispatchMode):
    """now: bytes of the tensors that were made in it and are alive; peak: the most since `restart`."""

    def __init__(self, device: str) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._multiple = _MULTIPLE[device]
        self._alive: dict[int, object] = {}

    def restart(self) -> None:
        """Begins a new peak."""
        self.peak = self.now

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        run = _grouped_mm_of_any_dtype if func is _grouped_mm else func
        found = run(*args, **(kwargs or {}))
        if isinstance(found, (Tensor, tuple, list)):  # most calls ask for a tensor's device
            given = {each._cdata for each in _storages((args, *(kwargs or {}).values()))}
            for storage in _storages(found):
                if storage._cdata not in given and storage._cdata not in self._alive:
                    self._count(storage)
        return found

    def _count(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, -(-storage.nbytes() // self._multiple) * self._multiple

        def freed(_: object) -> None:
            self.now -= size
            del self._alive[key]

        self._alive[key] = ref(storage, freed)
        self.now += size
        self.peak = max(self.peak, self.now)


def _storages(found: Any) -> Iterator[torch.UntypedStorage]:
    """Those of a tensor, or of the tensors in nested tuples and lists."""
    if isinstance(found, Tensor):
        yield found.untyped_storage()
    elif isinstance(found, (tuple, list)):
        for each in found:
            yield from _storages(each)


def _grouped_mm_of_any_dtype(a: Tensor, b: Tensor, *more: Any, **named: Any) -> Tensor:
    """torch can say the shape of this operator's result for bfloat16 only, though a CPU computes it for others."""
    if type(a) is Tensor:
        return _grouped_mm(a, b, *more, **named)
    return _grouped_mm(a.bfloat16(), b.bfloat16(), *more, **named).to(a.dtype)
