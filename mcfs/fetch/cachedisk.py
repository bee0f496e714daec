"""The system calls of the cache, one method each, so that a test can fail or stop at any of them."""

from __future__ import annotations

import ctypes
import errno
import os
from typing import TYPE_CHECKING, Final, Protocol

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

    from mcfs.protocol.merkle import Buffer

_KEEP_SIZE: Final = 0x01
_PUNCH_HOLE: Final = 0x02
"""FALLOC_FL_* of <linux/falloc.h>; Python's os module has posix_fallocate alone, which punches no holes."""

_NO_COPY: Final = frozenset({errno.EXDEV, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL})
"""What copy_file_range says where it is not to be had: then the bytes go through user space."""
_NO_WRITE: Final = frozenset({errno.EROFS, errno.EACCES, errno.EPERM})

_WOULD_WAIT: Final = frozenset({errno.EAGAIN, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL})
"""What preadv with RWF_NOWAIT says when it would wait, or where a kernel or file system does not know that."""
_MEMORY: Final = frozenset({"tmpfs", "ramfs"})

FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT})


class _Fallocate(Protocol):
    def __call__(self, fd: int, mode: int, offset: int, length: int, /) -> int: ...


def _find_fallocate() -> _Fallocate | None:
    libc = ctypes.CDLL(None, use_errno=True)
    # fallocate64 first: off_t of plain fallocate has 32 bits on 32-bit machines. musl has the plain one only.
    function = getattr(libc, "fallocate64", None) or getattr(libc, "fallocate", None)
    if function is None:
        return None
    function.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)
    found: Callable[[int, int, int, int], int] = function
    return found


_fallocate: Final = _find_fallocate()


class Disk:
    """All methods raise OSError; none of them keeps state.

    Names are relative to the open directory `at`: when the cache is deleted under a running mount and another process
    makes it anew at the same path, the two must not write to the same files.
    """

    def create(self, at: int, name: str) -> int:
        """A new, empty file open for reading and writing."""
        return os.open(name, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=at)

    def open(self, at: int, name: str) -> int:
        """An existing file, for reading alone where writing is refused."""
        flags = os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            return os.open(name, os.O_RDWR | flags, dir_fd=at)
        except OSError as error:
            if error.errno not in _NO_WRITE:
                raise
            return os.open(name, os.O_RDONLY | flags, dir_fd=at)

    def close(self, fd: int) -> None:
        os.close(fd)

    def size(self, fd: int) -> int:
        return os.fstat(fd).st_size

    def allocated(self, fd: int) -> int:
        """Bytes that the file takes on the disk (delayed allocation included, with ext4, XFS and btrfs)."""
        return os.fstat(fd).st_blocks * 512

    def truncate(self, fd: int, size: int) -> None:
        os.ftruncate(fd, size)

    def mkdir(self, at: int, name: str) -> None:
        os.mkdir(name, 0o700, dir_fd=at)

    def rename(self, at: int, old: str, new: str) -> None:
        os.rename(old, new, src_dir_fd=at, dst_dir_fd=at)

    def unlink(self, at: int, name: str) -> None:
        os.unlink(name, dir_fd=at)

    def pread(self, fd: int, length: int, offset: int) -> bytes:
        return os.pread(fd, length, offset)

    def pread_at_once(self, fd: int, length: int, offset: int) -> memoryview | None:
        """The bytes of the range if the kernel has them all in memory; None if not, or if it cannot tell."""
        data = np.empty(length, np.uint8).data
        try:
            done = os.preadv(fd, [data], offset, os.RWF_NOWAIT)
        except OSError as error:
            if error.errno in _WOULD_WAIT:
                return None
            raise
        return data if done == length else None

    def is_in_memory(self, at: int) -> bool:
        """Whether the file system of a directory has no disk at all: it does not know RWF_NOWAIT, nor need it."""
        device = os.fstat(at).st_dev
        wanted = f"{os.major(device)}:{os.minor(device)}"
        with open("/proc/self/mountinfo", encoding="utf-8", errors="replace") as lines:
            return any(_kind(line) in _MEMORY for line in lines if line.split(" ", 3)[2] == wanted)

    def pwrite(self, fd: int, data: memoryview, offset: int) -> int:
        return os.pwrite(fd, data, offset)

    def pwrite_direct(self, fd: int, data: memoryview, offset: int) -> int:
        """Past the page cache: memory, offset and length are multiples of the disk's block size, or it says EINVAL."""
        direct = os.open(f"/proc/self/fd/{fd}", os.O_WRONLY | os.O_DIRECT | os.O_CLOEXEC)
        try:
            return os.pwrite(direct, data, offset)
        finally:
            os.close(direct)

    def punch(self, fd: int, offset: int, length: int) -> None:
        """Give the range back to the file system: it reads as zeros then. EOPNOTSUPP where that is unknown."""
        if _fallocate is None:
            raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))
        if _fallocate(fd, _PUNCH_HOLE | _KEEP_SIZE, offset, length):
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))

    def copy(self, source: int, source_at: int, target: int, target_at: int, length: int) -> int:
        """Copy some bytes from file to file, sharing them where the file system can. At least 1 unless at the end."""
        return os.copy_file_range(source, target, length, source_at, target_at)

    def free(self, at: int) -> int:
        """Bytes that an ordinary user may still write to the file system."""
        state = os.fstatvfs(at)
        return state.f_bavail * state.f_frsize

    def total(self, at: int) -> int:
        """Bytes of the whole file system."""
        state = os.fstatvfs(at)
        return state.f_blocks * state.f_frsize


def _kind(line: str) -> str:
    """The type of the file system in a line of mountinfo, see proc_pid_mountinfo(5)."""
    return line.partition(" - ")[2].partition(" ")[0]


def octets(data: Buffer) -> memoryview:
    """A view of the bytes, without a copy."""
    return memoryview(data).cast("B")


def write_all(disk: Disk, fd: int, data: bytes | memoryview, offset: int) -> None:
    """Write everything; a write may be short when the disk gets full or a signal comes in."""
    view = memoryview(data)
    while view:
        done = disk.pwrite(fd, view, offset)
        if done <= 0:
            raise OSError(errno.EIO, "nothing was written")
        view, offset = view[done:], offset + done


def read_exactly(disk: Disk, fd: int, length: int, offset: int) -> bytes:
    """The bytes of the range. EIO when the file ends before."""
    data = disk.pread(fd, length, offset)
    while len(data) < length:
        more = disk.pread(fd, length - len(data), offset + len(data))
        if not more:
            raise OSError(errno.EIO, "the file ends early")
        data += more
    return data


def copy_all(disk: Disk, source: int, source_at: int, target: int, target_at: int, length: int) -> None:
    """Copy the whole range, in the kernel where it can be done there."""
    done = 0
    try:
        while done < length:
            step = disk.copy(source, source_at + done, target, target_at + done, length - done)
            if step <= 0:
                raise OSError(errno.EIO, "the file ends early")
            done += step
    except OSError as error:
        if error.errno not in _NO_COPY:
            raise
        _copy_through(disk, source, source_at, target, target_at, length)


def _copy_through(disk: Disk, source: int, source_at: int, target: int, target_at: int, length: int) -> None:
    write_all(disk, target, read_exactly(disk, source, length, source_at), target_at)
