"""What the C library does with freed memory: sessions come and go, and what they held has to go with them."""

import ctypes
import os
from functools import lru_cache
from typing import Any, Final

_M_MMAP_THRESHOLD: Final = -3
"""From glibc's `malloc.h`."""
_APART_BYTES: Final = 4 * 2**20


@lru_cache
def keep_large_blocks_apart() -> None:
    """Let every large block have a map of its own, which ends with it.

    glibc raises the size from which it does so, up to 32 MiB, as soon as one such block was freed; from then on the
    weights of a session lie between what other threads allocate meanwhile, and leave holes. Memory before and after a
    hundred swaps under load: `benchmarks/swaps.py`.
    """
    if mallopt := _glibc("mallopt"):
        mallopt(ctypes.c_int(_M_MMAP_THRESHOLD), ctypes.c_int(_APART_BYTES))


def return_freed_memory() -> None:
    """Give pages that the C library keeps for later back to the system; takes 20 ms after a ResNet-50."""
    if trim := _glibc("malloc_trim"):
        trim(ctypes.c_size_t(0))


def _glibc(name: str) -> Any:
    """A function that glibc alone has; None elsewhere."""
    return getattr(ctypes.CDLL(None), name, None) if os.name == "posix" else None
