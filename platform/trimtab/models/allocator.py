"""Memory of the C library's allocator, which a CPU forward asks for and frees all the time.

glibc hands large freed blocks back to the system at once, and the next batch faults every page in
again: up to a sixth of a forward over short prompts. A process that only runs a model had better
keep them. Elsewhere than on glibc nothing happens.
"""

import ctypes
from typing import Final

_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_THRESHOLD: Final = -3
_NEVER: Final = 2**31 - 1
_MMAP_BYTES: Final = 1 << 30


def keep_freed_memory() -> None:
    """Lets this process reuse freed memory below 1 GB a block instead of returning it."""
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        libc.mallopt(_M_TRIM_THRESHOLD, _NEVER)
        libc.mallopt(_M_MMAP_THRESHOLD, _MMAP_BYTES)
