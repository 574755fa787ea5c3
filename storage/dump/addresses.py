"""Files mapped side by side into one range of addresses, so that numpy sees many files as one array.

Without this a gather over S shards is S gathers, a sort before and a scatter after them: three times slower for 512
sentences (docs/decisions/0006). Python's own mmap cannot be told where to map, hence the one call of the C library; the
range itself is an ordinary anonymous `mmap.mmap`, unmapped as a whole when the last array that looks into it is gone.
"""

import ctypes
import mmap
import os

import numpy as np
from numpy.typing import NDArray

_MAP_FIXED = 0x10
_MAP_FAILED = ctypes.c_void_p(-1).value

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_int64)


def pages(size_bytes: int) -> int:
    """Return ``size_bytes`` rounded up to whole pages: where the next file can begin."""
    return -(-size_bytes // mmap.PAGESIZE) * mmap.PAGESIZE


def mapped_file(descriptor: int) -> NDArray[np.uint8]:
    """Return a whole file's bytes, mapped; unlike Python's own mmap it keeps no descriptor open.

    Raises:
        OSError: If the system refuses.
    """
    place = AddressRange(os.fstat(descriptor).st_size)
    return place.bytes[: place.map(descriptor, 0)]


class AddressRange:
    """A range of addresses; what no file was mapped into reads as zeros and takes no memory.

    Attributes:
        bytes: All of it, read-only uint8.
    """

    def __init__(self, size_bytes: int) -> None:
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
        self._reserved = mmap.mmap(-1, max(1, size_bytes), flags=flags, prot=mmap.PROT_READ)
        self.bytes: NDArray[np.uint8] = np.frombuffer(self._reserved, np.uint8)

    def map(self, descriptor: int, offset: int) -> int:
        """Map a whole file, open for reading, at ``offset``, a multiple of a page; return its size.

        The descriptor may be closed afterwards. Mapping the same file there once more changes nothing.

        Raises:
            OSError: If the system refuses, or the file does not fit.
        """
        size = os.fstat(descriptor).st_size
        if offset + size > len(self.bytes):
            raise OSError(f"{size} bytes do not fit at {offset} of {len(self.bytes)}")
        if size:
            address = self.bytes.ctypes.data + offset
            got = _libc.mmap(address, size, mmap.PROT_READ, mmap.MAP_SHARED | _MAP_FIXED, descriptor, 0)
            if got == _MAP_FAILED:
                error = ctypes.get_errno()
                raise OSError(error, os.strerror(error))
        return size

    def release(self, start: int, stop: int) -> None:
        """Give the pages of a part back to the page cache; they are read again when they are looked at again."""
        if stop > start:
            self._reserved.madvise(mmap.MADV_DONTNEED, start, stop - start)
