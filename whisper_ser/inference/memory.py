"""Returns free heap memory to the operating system, where the C library (glibc) keeps it."""

import ctypes
from collections.abc import Callable


def _trimmer() -> Callable[[int], object] | None:
    try:
        return ctypes.CDLL(None).malloc_trim  # glibc's
    except (OSError, TypeError, AttributeError):  # other systems, which return memory by themselves
        return None


_trim = _trimmer()


def trim_memory() -> None:
    """Returns free heap memory to the operating system (glibc `malloc_trim`), in a few milliseconds.

    Recordings of different lengths fragment the heap of glibc: without this a page holds a third more memory than it
    uses after hundreds of recordings, and a training begins with 270 MB that only the encoder needed.
    """
    if _trim is not None:
        _trim(0)
