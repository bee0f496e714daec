"""Filters on real sockets."""

from __future__ import annotations

import socket

import pytest

from mcfs.net import bpf
from mcfs.net.reportload import LEAST_PART


def heard(program: bpf.Program, count: int, source: str = "::1") -> int:
    """How many of so many datagrams a socket with this filter gets."""
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as receiver:
        receiver.bind(("::1", 0))
        receiver.setblocking(False)
        bpf.attach_filter(receiver, program)
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sender:
            sender.bind((source, 0))
            for _ in range(count):
                sender.sendto(b"x", receiver.getsockname())
        came = 0
        while True:
            try:
                came += len(receiver.recv(10))
            except BlockingIOError:
                return came


@pytest.mark.parametrize("part", [1.0, 0.25, LEAST_PART])
def test_the_filter_passes_a_part(part: float) -> None:
    came = heard((*bpf.sampled(part), bpf.PASS), 200)
    assert 200 * part / 2 - 5 < came < min(200, 200 * part * 2 + 5) + 1


@pytest.mark.parametrize(("address", "expected"), [("::1", 20), ("::2", 0), ("fe80::1", 0), ("1::1", 0)])
def test_a_source_is_told_from_others(address: str, expected: int) -> None:
    packed = socket.inet_pton(socket.AF_INET6, address)
    others = socket.inet_pton(socket.AF_INET6, "fe80::7")
    program = (
        *bpf.REMEMBER_SOURCE,
        *bpf.if_source(others, (bpf.DROP,)),
        *bpf.if_source(packed, (bpf.PASS,)),
        bpf.DROP,
    )
    assert heard(program, 20) == expected
