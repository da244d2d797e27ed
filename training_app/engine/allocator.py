"""The memory of PyTorch on a processor under mimalloc, where it is installed.

glibc's heap holds up to half as much again as the tensors do, by chance more or less, since a freed block rarely fits
the next of its size, and gives large ones back to the system only to fetch them again page by page. Under mimalloc
nothing is given back before the end: memory stays at its peak, and its pages are made ready once.
"""

import os
import sys
from pathlib import Path

LIBRARY = Path("cmeel.prefix/lib/libmimalloc.so")  # of the package cmeel-mimalloc


def begin_anew_under_it() -> None:
    """Replace this process by the same program under the allocator; returns where that cannot be or was done."""
    library = next((path for place in sys.path if (path := Path(place) / LIBRARY).is_file()), None)
    if library is not None and "LD_PRELOAD" not in os.environ:
        os.environ.update({"LD_PRELOAD": str(library), "MIMALLOC_PURGE_DELAY": "-1"})
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])  # noqa: S606  # nosec B606
