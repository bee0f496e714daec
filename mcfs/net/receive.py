"""Receiving datagrams: many with one system call, and without a loop over them.

`recvmmsg` fills buffers that are laid out once; with UDP_GRO each may hold up to 45 datagrams that the kernel joined.
What came is grouped into runs, datagrams of one size in one channel from one source, by numpy over the whole batch.

A run costs 50 us, however long it is. So where many are short, because somebody sends between the datagrams of a server
or into many channels in turn, what belongs together is brought together first: in one channel, from one source and of
one size the order stays as it was.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import itertools
import os
import socket
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from mcfs.net.bpf import attach_filter
from mcfs.net.kernel import buffer_overflows
from mcfs.protocol.ids import Group, Host

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy.typing as npt

    from mcfs.net.bpf import Program
    from mcfs.protocol.fec import Symbols

    Rows = npt.NDArray[np.int64]
    Keys = npt.NDArray[np.int64]

MESSAGES: Final = 256
MESSAGE_SIZE: Final = 65536
RECEIVE_BUFFER: Final = 64 << 20
"""Bytes asked for; the kernel doubles it for its own overhead. Only root gets all of it."""
USABLE_SHARE: Final = 0.4
"""Of the granted buffer that datagrams may fill: each is charged about 1.6 times its size, and half is headroom."""

SCATTERED: Final = 16
"""Runs in a batch from which they are brought together: some 40 us for a full batch, and a copy of what is moved."""

_SOL_UDP: Final = 17
_UDP_GRO: Final = 104
_SO_DETACH_FILTER: Final = 27
_SO_RCVBUFFORCE: Final = 33
_SO_MEMINFO: Final = 55
_MEMINFO_DROPS: Final = 8
_IPV6_MULTICAST_ALL: Final = 29
_IPV6_PKTINFO: Final = 50
_MSG_DONTWAIT: Final = 0x40
_CONTROL_SIZE: Final = 128
_NAME_SIZE: Final = 32
_GROUP_REQUEST: Final = struct.Struct("=16sI")

_MMSGHDR: Final = np.dtype(
    [
        ("name", "u8"),
        ("namelen", "u4"),
        ("pad0", "u4"),
        ("iov", "u8"),
        ("iovlen", "u8"),
        ("control", "u8"),
        ("controllen", "u8"),
        ("flags", "u4"),
        ("pad1", "u4"),
        ("length", "u4"),
        ("pad2", "u4"),
    ]
)
_libc: Final = ctypes.CDLL(None, use_errno=True)
_libc.recvmmsg.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_uint, ctypes.c_int, ctypes.c_void_p]


class Run(NamedTuple):
    """Datagrams that came one after another in one channel; a view that the next batch overwrites."""

    group: Group
    source: Host
    ifindex: int
    datagrams: Symbols
    """uint8[n, size], or uint8[m, n, size] if m messages of n datagrams each came one after another."""

    def rows(self) -> Symbols:
        """uint8[n, size]: a copy if several messages came."""
        return self.datagrams.reshape(-1, self.datagrams.shape[-1])


@dataclass(frozen=True, slots=True)
class Joined:
    ok: bool
    too_many: bool = False
    """The kernel has no room for more memberships."""


class Receiver:
    """A wildcard UDP socket that is a member of the groups it was told to join, and of no others."""

    def __init__(self, port: int) -> None:
        self.malformed = 0
        self.socket = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        try:
            self._set_options(port)
        except BaseException:
            self.socket.close()
            raise
        self.granted = self.socket.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)
        self._drops = self._dropped = 0
        self._overflows = buffer_overflows()
        self._dirty = MESSAGES  # headers that the next call has to reset
        self._lay_out()

    def close(self) -> None:
        """Closing sends the leaves."""
        self.socket.close()

    @property
    def usable(self) -> int:
        """Bytes of datagrams that may be under way without the buffer overflowing."""
        return int(self.granted * USABLE_SHARE)

    def kernel_drops(self) -> int:
        """Datagrams that found the buffer full, since the socket was opened.

        The kernel counts those that the filter dropped with them. What is told apart is told only of the whole network
        namespace, so this is the lesser of the two.
        """
        info = self.socket.getsockopt(socket.SOL_SOCKET, _SO_MEMINFO, 64)
        dropped = int.from_bytes(info[4 * _MEMINFO_DROPS : 4 * _MEMINFO_DROPS + 4], "little")
        if dropped != self._dropped:
            before, self._overflows = self._overflows, buffer_overflows()
            counted = self._overflows - before if before is not None and self._overflows is not None else 1 << 32
            self._drops += min((dropped - self._dropped) % (1 << 32), counted)
            self._dropped = dropped
        return self._drops

    def attach(self, program: Program) -> None:
        """Have the kernel drop what this filter does not pass. Raises OSError, and then there is none.

        Both are charged to the socket until the new one is there, so where that is too much the old one goes first."""
        try:
            attach_filter(self.socket, program)
        except OSError:
            with contextlib.suppress(OSError):  # there was none
                self.socket.setsockopt(socket.SOL_SOCKET, _SO_DETACH_FILTER, 0)
            attach_filter(self.socket, program)

    def join(self, group: bytes, ifindex: int) -> Joined:
        try:
            self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, _GROUP_REQUEST.pack(group, ifindex))
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                return Joined(True)
            return Joined(False, too_many=error.errno in (errno.ENOBUFS, errno.ENOMEM))
        return Joined(True)

    def leave(self, group: bytes, ifindex: int) -> None:
        """Leaving what the kernel has dropped by itself (an interface that went) is no error."""
        try:
            self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_LEAVE_GROUP, _GROUP_REQUEST.pack(group, ifindex))
        except OSError as error:
            if error.errno not in (errno.EADDRNOTAVAIL, errno.ENODEV, errno.ENXIO):
                raise

    def receive(self) -> list[Run] | None:
        """One batch of what has come; None when there is nothing."""
        used = self._headers[: self._dirty]
        used["namelen"], used["controllen"], used["flags"] = _NAME_SIZE, _CONTROL_SIZE, 0
        n = _libc.recvmmsg(self.socket.fileno(), self._headers.ctypes.data, MESSAGES, _MSG_DONTWAIT, None)
        if n <= 0:
            self._dirty = 0
            code = ctypes.get_errno()
            if n == 0 or code in (errno.EAGAIN, errno.EINTR):
                return None
            if code in (errno.ENETDOWN, errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ECONNREFUSED):
                return None  # a pending error of the socket, cleared by reporting it
            raise OSError(code, os.strerror(code))
        self._dirty = n
        return list(self._runs(n))

    # --- inside ---

    def _set_options(self, port: int) -> None:
        sock = self.socket
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.setsockopt(socket.IPPROTO_IPV6, _IPV6_MULTICAST_ALL, 0)
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
        try:
            sock.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, RECEIVE_BUFFER)
        except PermissionError:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
        with contextlib.suppress(OSError):  # an old kernel: every datagram comes by itself
            sock.setsockopt(_SOL_UDP, _UDP_GRO, 1)
        sock.bind(("::", port))

    def _lay_out(self) -> None:
        self._data = np.zeros((MESSAGES, MESSAGE_SIZE), dtype=np.uint8)
        self._control = np.zeros((MESSAGES, _CONTROL_SIZE), dtype=np.uint8)
        self._control32 = self._control.view(np.uint32)
        self._names = np.zeros((MESSAGES, _NAME_SIZE), dtype=np.uint8)
        self._names32 = self._names.view(np.uint32)
        self._iov = np.zeros((MESSAGES, 2), dtype=np.uint64)
        rows = np.arange(MESSAGES, dtype=np.uint64)
        self._iov[:, 0] = self._data.ctypes.data + rows * np.uint64(MESSAGE_SIZE)
        self._iov[:, 1] = MESSAGE_SIZE
        headers = self._headers = np.zeros(MESSAGES, dtype=_MMSGHDR)
        headers["name"] = self._names.ctypes.data + rows * np.uint64(_NAME_SIZE)
        headers["iov"] = self._iov.ctypes.data + rows * np.uint64(16)
        headers["iovlen"] = 1
        headers["control"] = self._control.ctypes.data + rows * np.uint64(_CONTROL_SIZE)
        # Where what is looked for stands in a control buffer, in 32-bit words: behind a UDP_GRO message or first.
        self._rows = np.arange(MESSAGES)
        self._mix = np.frombuffer(os.urandom(80), dtype=np.int64) | 1

    def _runs(self, n: int) -> Iterator[Run]:
        control = self._control32[:n]
        lengths = self._headers["length"][:n].astype(np.int64)
        joined = (control[:, 2] == _SOL_UDP) & (control[:, 3] == _UDP_GRO)
        sizes = np.where(joined, control[:, 4], lengths).astype(np.int64)
        # Words: a control message's header is 4 long, UDP_GRO's fills 6; packet info is address (4) and interface (1).
        info = np.where(joined, 6, 0)
        rows = self._rows[:n]
        good = (control[rows, info + 2] == socket.IPPROTO_IPV6) & (control[rows, info + 3] == _IPV6_PKTINFO)
        good &= (sizes > 0) & (lengths > 0)
        if not good.all():
            self.malformed += int(n - np.count_nonzero(good))
        keys = np.empty((n, 10), dtype=np.int64)
        keys[:, :5] = control[rows[:, None], info[:, None] + np.arange(4, 9)]
        keys[:, 5:9] = self._names32[:n, 2:6]
        # Messages of as many datagrams of one size each are one run; one whose last datagram is shorter stands alone.
        keys[:, 9] = np.where(lengths % np.maximum(sizes, 1) == 0, lengths << 32 | sizes, -1 - rows)
        starts = _starts(keys)
        if len(starts) > SCATTERED:
            rows = brought_together(keys[:, :9], sizes, self._mix)
            starts = _starts(keys[rows])
        for start, end in itertools.pairwise([0, *starts.tolist(), n]):
            first = int(rows[start])
            if good[first]:
                yield from self._run(rows[start:end], int(lengths[first]), int(sizes[first]), int(info[first]))

    def _run(self, rows: Rows, length: int, size: int, info: int) -> Iterator[Run]:
        first, count, at = int(rows[0]), len(rows), 4 * (info + 4)
        side_by_side = int(rows[-1]) - first == count - 1
        data = self._data[first : first + count, :length] if side_by_side else self._data[rows, :length]
        control = self._control[first]
        group = Group(control[at : at + 16].tobytes())
        ifindex = int(self._control32[first, info + 8])
        source = Host(self._names[first, 8:24].tobytes())
        if length <= size:
            yield Run(group, source, ifindex, data)
            return
        whole = length // size
        shape = (count, whole, size) if count > 1 else (whole, size)
        yield Run(group, source, ifindex, data[:, : whole * size].reshape(shape))
        if length % size:
            yield Run(group, source, ifindex, data[:, whole * size :])


def _starts(keys: Keys) -> Rows:
    """Where one run ends and the next one begins."""
    return np.flatnonzero(np.any(keys[1:] != keys[:-1], axis=1)) + 1


def brought_together(keys: Keys, sizes: Rows, mix: Rows) -> Rows:
    """The order in which messages of one key, int64[n, 9], and size come one after another, else as they came. `mix`,
    ten numbers that nobody knows, makes it unlikely that anybody can bring others between them."""
    found: Rows = np.argsort((keys * mix[:9]).sum(axis=1) + sizes * mix[9], kind="stable")
    return found
