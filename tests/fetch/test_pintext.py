"""The text of the files of known publishers and of their versions."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcfs.fetch.pintext import (
    HEADER,
    MAX_FLOORS,
    MAX_LINES,
    BadLine,
    Full,
    format_floors,
    parse_floors_untrusted,
    parse_pins_untrusted,
    with_floor,
    with_pin,
)
from mcfs.fetch.trust import MAX_REPLACED, Floor, Pin
from mcfs.protocol.ids import MAX_OBJECT_SIZE
from mcfs.protocol.publisher import Fingerprint, format_fingerprint

NAMES = st.binary(min_size=1, max_size=255).filter(lambda name: not set(name) & set(b"/\0"))
PRINTS = st.binary(min_size=32, max_size=32).map(Fingerprint)
FLOORS = st.builds(Floor, st.integers(0, MAX_OBJECT_SIZE), st.just(b"") | st.binary(min_size=32, max_size=32))
A, B, C = (Fingerprint(bytes([n]) * 32) for n in (1, 2, 3))
WORD_A, WORD_B, WORD_C = map(format_fingerprint, (A, B, C))
ID = "ab" * 32


# --- known publishers ------------------------------------------------------------------------------------------------


@given(st.dictionaries(NAMES, st.tuples(PRINTS, st.lists(PRINTS, max_size=MAX_REPLACED)), max_size=8))
def test_pins_can_be_read_back(pins: dict[bytes, tuple[Fingerprint, list[Fingerprint]]]) -> None:
    text = ""
    for name, (key, replaces) in pins.items():
        text = with_pin(text, name, Pin(key, tuple(replaces)), "a note # with a mark")
    found = parse_pins_untrusted(text)
    assert {name: (pin.fingerprint, list(pin.replaces)) for name, pin in found.items()} == pins
    lines = text.split("\n")
    assert all(format_fingerprint(pin.fingerprint) in lines[pin.line - 1] for pin in found.values())


def test_what_people_write_stays() -> None:
    text = f"# mine\n\n  data\t{WORD_A}   # the one in the cellar\r\nother {WORD_B}"
    after = with_pin(text, b"data", Pin(C, (A,)), "note")
    assert after == (f"# mine\n\ndata {WORD_C} replaces {WORD_A} # the one in the cellar\nother {WORD_B}")
    assert with_pin(after, b"new one", Pin(A), "note") == f"{after}\nnew\\040one {WORD_A} # note\n"


def test_a_new_file_says_what_it_is() -> None:
    text = with_pin("", b"data", Pin(A), "first used 2026-11-21")
    assert text == f"{HEADER}data {WORD_A} # first used 2026-11-21\n"


def test_a_key_may_be_written_as_one() -> None:
    pins = parse_pins_untrusted("data " + "00" * 32)
    assert format_fingerprint(pins[b"data"].fingerprint) == "SHA256:Zmh6rfhivXdsj8GLjp+OIAiXFIVu4jOzkCpZHQ1fKSU"


@pytest.mark.parametrize("name", [b"# no comment", b"#", b"a\nb SHA256:x", b"\xff", b" ", b"a\\b", b"a #b", b"\r"])
def test_a_name_cannot_be_another_line(name: bytes) -> None:
    text = with_pin(f"first {WORD_A}\n", name, Pin(B), "note")
    assert text.count("\n") == 2
    assert set(parse_pins_untrusted(text)) == {b"first", name}


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("data", "a name and a fingerprint"),
        ("data SHA256:abc", "neither a fingerprint"),
        (f"data {WORD_A} {WORD_B}", "neither 'replaces"),
        (f"data {WORD_A} replaces", "neither 'replaces"),
        (f"data {WORD_A} replaces x", "neither a fingerprint"),
        (f"data {WORD_A[:-1]}", "neither a fingerprint"),
        (f"a/b {WORD_A}", "not the name of a share"),
        (f"\\000 {WORD_A}", "not the name of a share"),
        (f"\\x {WORD_A}", "is no escape"),
        (f"first {WORD_A}", "stands in line 1 already"),
        ("\0" * 100, "a name and a fingerprint"),
    ],
)
def test_a_damaged_line_is_named(line: str, reason: str) -> None:
    text = f"first {WORD_A}\n# comment\n{line}\n"
    with pytest.raises(BadLine, match=f"line 3: .*{reason}"):
        parse_pins_untrusted(text)
    with pytest.raises(BadLine):
        with_pin(text, b"new", Pin(A), "note")


@given(st.text(max_size=200))
def test_any_text_is_read_or_has_a_bad_line(text: str) -> None:
    for parse in (parse_pins_untrusted, parse_floors_untrusted):
        try:
            parse(text)
        except BadLine as error:
            assert 1 <= error.number <= text.count("\n") + 1  # noqa: PT017 - either outcome is right


def test_known_publishers_are_bounded_and_never_thrown_out() -> None:
    text = "".join(f"n{n} {WORD_A}\n" for n in range(MAX_LINES))
    with pytest.raises(Full):
        with_pin(text, b"one more", Pin(B), "note")
    assert parse_pins_untrusted(with_pin(text, b"n7", Pin(B), "note"))[b"n7"].fingerprint == B


# --- versions --------------------------------------------------------------------------------------------------------


@given(st.dictionaries(st.tuples(NAMES, PRINTS), FLOORS, max_size=8))
def test_versions_can_be_read_back(floors: dict[tuple[bytes, Fingerprint], Floor]) -> None:
    found = parse_floors_untrusted(format_floors(floors))
    assert {key: (floor.version, floor.content) for key, floor in found.items()} == {
        key: (floor.version, floor.content) for key, floor in floors.items()
    }
    assert [floor.line for floor in found.values()] == list(range(1, len(floors) + 1))


def test_a_version_never_goes_back() -> None:
    text = with_floor("", b"data", A, Floor(7, b""), ())
    assert text == f"data {WORD_A} 7 -\n"
    assert with_floor(text, b"data", A, Floor(6, b"x" * 32), ()) == text
    text = with_floor(text, b"data", B, Floor(3, bytes.fromhex(ID)), ())
    text = with_floor(text, b"data", A, Floor(8, b""), ())
    assert text == f"data {WORD_B} 3 {ID}\ndata {WORD_A} 8 -\n"


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (f"data {WORD_A} 7", "a version and an object"),
        (f"data {WORD_A} 7 - x", "a version and an object"),
        (f"data {WORD_A} -7 -", "not a version"),
        (f"data {WORD_A} {1 << 63} -", "not a version"),
        (f"data {WORD_A} {'9' * 5000} -", "not a version"),
        (f"data {WORD_A} \u0667 -", "not a version"),
        (f"data {WORD_A} 7 ab", "not the id of an object"),
        (f"data x 7 {ID}", "neither a fingerprint"),
        (f".\\057 {WORD_A} 7 {ID}", "not the name"),
    ],
)
def test_a_damaged_version_is_named(line: str, reason: str) -> None:
    with pytest.raises(BadLine, match=f"line 1: .*{reason}"):
        parse_floors_untrusted(line)


def test_versions_are_bounded_and_those_of_pinned_names_stay() -> None:
    floors = {(b"n%d" % n, A): Floor(n, b"") for n in range(MAX_FLOORS)}
    text = with_floor(format_floors(floors), b"new", A, Floor(1, b""), {b"n0", b"n1", b"new"})
    found = parse_floors_untrusted(text)
    assert len(found) == MAX_FLOORS
    assert (b"n2", A) not in found
    assert {(b"n0", A), (b"n1", A), (b"new", A)} <= found.keys()
    with pytest.raises(Full):
        with_floor(text, b"newer", A, Floor(1, b""), {b"newer", *(name for name, _ in found)})
    with pytest.raises(Full):
        with_floor(text, b"stranger", A, Floor(1, b""), ())
