"""Bytes that two processes of a machine share, without a copy for each and without a name that could outlive them."""

import mmap
import os
from typing import BinaryIO


class SharedBytes:
    """`size` bytes in memory, zero at first; `view` writes and reads them. They last as long as anybody holds them."""

    def __init__(self, size: int) -> None:
        self.file: BinaryIO = os.fdopen(os.memfd_create("vlrl"), "r+b", buffering=0)
        os.ftruncate(self.file.fileno(), size)
        self.view = mmap.mmap(self.file.fileno(), size)


def received(descriptor: int, size: int) -> mmap.mmap:
    """The bytes that another process sent as a file descriptor, which is closed. Whoever writes to them gets a copy."""
    try:
        return mmap.mmap(descriptor, size, flags=mmap.MAP_PRIVATE)
    finally:
        os.close(descriptor)
