"""Classic BPF: programs that say which packets the kernel hands to a socket (linux/filter.h). They need no privilege.

An instruction is (code, jump if true, jump if false, operand); jumps count from the next instruction. Where byte 0 is
depends on the socket: on a packet socket it is the first of the IPv6 header, on a UDP socket of the UDP header, on a
raw one of the ICMPv6 header. NETWORK is the IPv6 header on all of them.
"""

from __future__ import annotations

import ctypes
import socket
import struct
from typing import Final

Instruction = tuple[int, int, int, int]
Program = tuple[Instruction, ...]

LOAD_BYTE: Final = 0x30
LOAD_HALF: Final = 0x28
LOAD_WORD: Final = 0x20
RECALL: Final = 0x60
STORE: Final = 0x02
"""From and into one of 16 words that a program has for itself."""
LOAD_LENGTH: Final = 0x80
SUBTRACT: Final = 0x14
TO_INDEX: Final = 0x07
LOAD_BYTE_AT_INDEX: Final = 0x50
JUMP_EQUAL: Final = 0x15
JUMP_ABOVE: Final = 0x25
RETURN: Final = 0x06
NETWORK: Final = 0xFFF00000
RANDOM: Final = 0xFFFFF000 + 56
"""Ancillary data: 32 random bits."""

PASS: Final[Instruction] = (RETURN, 0, 0, 0xFFFFFFFF)
DROP: Final[Instruction] = (RETURN, 0, 0, 0)

SOURCE_WORDS: Final = 4
"""Words 0 to 3, once the source is remembered."""
_SOURCE: Final = NETWORK + 8
_INSTRUCTION: Final = struct.Struct("@HBBI")
_PROGRAM: Final = struct.Struct("@HP")
_SO_ATTACH_FILTER: Final = 26

# To look at a packet takes ten instructions of the kernel's own code, to recall one: with this a program for many
# addresses takes a third of the memory.
REMEMBER_SOURCE: Final[Program] = tuple(
    line for word in range(SOURCE_WORDS) for line in ((LOAD_WORD, 0, 0, _SOURCE + 4 * word), (STORE, 0, 0, word))
)


def if_source(address: bytes, then: Program) -> Program:
    """What to do with a packet of this IPv6 address, behind REMEMBER_SOURCE; others go on behind it."""
    code: Program = ()
    for number in reversed(range(SOURCE_WORDS)):  # most differ at the end
        word = int.from_bytes(address[4 * number : 4 * number + 4], "big")
        code += ((RECALL, 0, 0, number), (JUMP_EQUAL, 0, 2 * number + len(then), word))
    return code + then


def sampled(part: float) -> Program:
    """The beginning of a program that drops all but a part, drawn at random."""
    if part >= 1:
        return ()
    return ((LOAD_WORD, 0, 0, RANDOM), *drawn(part))


def drawn(part: float) -> Program:
    """The same where random bits are loaded already."""
    return ((JUMP_ABOVE, 0, 1, int(part * 0xFFFFFFFF)), DROP)


def attach_filter(sock: socket.socket, program: Program) -> None:
    """Have the kernel hand to a socket only what a program passes. Raises OSError."""
    code = b"".join(_INSTRUCTION.pack(*instruction) for instruction in program)
    buffer = ctypes.create_string_buffer(code, len(code))
    # struct sock_fprog holds a pointer; the kernel copies what it points to before setsockopt returns.
    request = _PROGRAM.pack(len(program), ctypes.addressof(buffer))
    sock.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, request)
