"""MLD messages: literal bytes from the standards, round trips, and garbage."""

from __future__ import annotations

import contextlib
import dataclasses
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcfs.protocol import mld
from mcfs.protocol.errors import BadDatagram
from mcfs.protocol.ids import Group, Host
from mcfs.protocol.mld import Advertisement, Envelope, OldMessage, Query, Record, RecordType, Solicitation, Termination

HOST = Host(bytes.fromhex("fe800000000000000000000000000001"))
GROUP = Group(bytes.fromhex("ff150000000000000000000080000001"))
OTHER = Group(bytes.fromhex("ff150000000000000000000080000002"))
SOLICITED_NODE = Group(bytes.fromhex("ff0200000000000000000001ff000001"))
SOURCE = bytes.fromhex("20010db8000000000000000000000001")

REPORT_ENVELOPE = Envelope(HOST, mld.ALL_MLDV2_ROUTERS, hop_limit=1, router_alert=True, ifindex=2)
DONE_ENVELOPE = dataclasses.replace(REPORT_ENVELOPE, destination=mld.ALL_ROUTERS)
OLD_ENVELOPE = dataclasses.replace(REPORT_ENVELOPE, destination=GROUP)
QUERY_ENVELOPE = dataclasses.replace(REPORT_ENVELOPE, destination=mld.ALL_NODES)

addresses = st.binary(min_size=16, max_size=16)
groups = st.builds(
    lambda flags, scope, rest: Group(bytes((0xFF, flags << 4 | scope)) + rest),
    st.integers(0, 15),
    st.integers(3, 15),
    st.binary(min_size=14, max_size=14),
)
record_types = st.sampled_from(RecordType)
plain_records = st.builds(Record, record_types, groups, st.just(()))
records = st.builds(Record, record_types, groups, st.lists(addresses, max_size=4).map(tuple))
envelopes = st.sampled_from([REPORT_ENVELOPE, DONE_ENVELOPE, OLD_ENVELOPE, QUERY_ENVELOPE])


def raw_record(kind: int, group: bytes, sources: tuple[bytes, ...] = (), aux: bytes = b"") -> bytes:
    return struct.pack(">BBH", kind, len(aux) // 4, len(sources)) + group + b"".join(sources) + aux


def raw_report(*raw: bytes, count: int | None = None) -> bytes:
    return struct.pack(">BBHHH", 143, 0, 0, 0, len(raw) if count is None else count) + b"".join(raw)


class TestReport:
    def test_literal_bytes(self) -> None:
        message = mld.build_report([Record(RecordType.CHANGE_TO_EXCLUDE_MODE, GROUP)])
        assert message.hex() == "8f0000000000000104000000ff150000000000000000000080000001"

    @given(st.lists(plain_records, max_size=mld.MAX_RECORDS))
    def test_plain_records_come_back(self, wanted: list[Record]) -> None:
        assert mld.parse_report_untrusted(mld.build_report(wanted), REPORT_ENVELOPE) == wanted

    @given(st.lists(records, max_size=8))
    def test_records_with_sources_come_back(self, wanted: list[Record]) -> None:
        assert mld.parse_report_untrusted(mld.build_report(wanted), REPORT_ENVELOPE) == wanted

    @given(st.lists(records, max_size=8), st.binary(min_size=1, max_size=40))
    def test_additional_data_is_ignored(self, wanted: list[Record], extra: bytes) -> None:
        assert mld.parse_report_untrusted(mld.build_report(wanted) + extra, REPORT_ENVELOPE) == wanted

    def test_auxiliary_data_is_skipped(self) -> None:
        message = raw_report(raw_record(4, GROUP, (SOURCE,), aux=b"eight by"), raw_record(3, OTHER))
        assert mld.parse_report_untrusted(message, REPORT_ENVELOPE) == [
            Record(RecordType.CHANGE_TO_EXCLUDE_MODE, GROUP, (SOURCE,)),
            Record(RecordType.CHANGE_TO_INCLUDE_MODE, OTHER),
        ]

    @pytest.mark.parametrize("sources", [(), (SOURCE,)])
    @pytest.mark.parametrize("kind", [0, 7, 255])
    def test_unknown_types_are_left_out(self, kind: int, sources: tuple[bytes, ...]) -> None:
        message = raw_report(raw_record(kind, OTHER, sources), raw_record(2, GROUP))
        assert mld.parse_report_untrusted(message, REPORT_ENVELOPE) == [Record(RecordType.MODE_IS_EXCLUDE, GROUP)]

    @pytest.mark.parametrize("sources", [(), (SOURCE,)])
    def test_link_local_groups_are_left_out(self, sources: tuple[bytes, ...]) -> None:
        message = raw_report(raw_record(2, SOLICITED_NODE, sources), raw_record(2, GROUP))
        assert mld.parse_report_untrusted(message, REPORT_ENVELOPE) == [Record(RecordType.MODE_IS_EXCLUDE, GROUP)]

    @pytest.mark.parametrize(
        "change",
        [
            {"source": bytes.fromhex("20010db8000000000000000000000001")},
            {"source": mld.UNSPECIFIED},
            {"source": bytes.fromhex("fec00000000000000000000000000001")},
            {"destination": mld.ALL_ROUTERS},
            {"destination": HOST},
            {"hop_limit": 64},
            {"hop_limit": 0},
            {"router_alert": False},
        ],
    )
    def test_envelope_is_checked(self, change: dict[str, bytes | int | bool]) -> None:
        message = mld.build_report([Record(RecordType.MODE_IS_EXCLUDE, GROUP)])
        envelope = dataclasses.replace(REPORT_ENVELOPE, **change)  # type: ignore[arg-type]
        with pytest.raises(BadDatagram):
            mld.parse_report_untrusted(message, envelope)

    @pytest.mark.parametrize(
        "message",
        [
            b"",
            b"\x8f",
            mld.build_old(OldMessage(GROUP, done=False)),
            raw_report(raw_record(4, GROUP), count=2),
            raw_report(count=65535),
            raw_report(raw_record(4, GROUP)[:-1]),
            raw_report(raw_record(4, GROUP, (SOURCE,))[:-1]),
            raw_report(raw_record(4, GROUP, aux=b"four")[:-1]),
            raw_report(raw_record(4, SOURCE)),
            raw_report(raw_record(4, SOURCE, (SOURCE,))),
            raw_report(raw_record(7, SOURCE)),
        ],
    )
    def test_malformed_is_refused(self, message: bytes) -> None:
        with pytest.raises(BadDatagram):
            mld.parse_report_untrusted(message, REPORT_ENVELOPE)


class TestOldMessages:
    def test_literal_bytes(self) -> None:
        message = mld.build_old(OldMessage(GROUP, done=True))
        assert message.hex() == "8400000000000000ff150000000000000000000080000001"

    def test_report_comes_back(self) -> None:
        message = OldMessage(GROUP, done=False)
        assert mld.parse_old_untrusted(mld.build_old(message), OLD_ENVELOPE) == message

    def test_done_comes_back(self) -> None:
        message = OldMessage(GROUP, done=True)
        assert mld.parse_old_untrusted(mld.build_old(message), DONE_ENVELOPE) == message

    @pytest.mark.parametrize(
        ("message", "envelope"),
        [
            (OldMessage(GROUP, done=False), DONE_ENVELOPE),
            (OldMessage(GROUP, done=True), OLD_ENVELOPE),
            (OldMessage(OTHER, done=False), OLD_ENVELOPE),
            (OldMessage(Group(SOURCE), done=True), DONE_ENVELOPE),
            (OldMessage(GROUP, done=False), dataclasses.replace(OLD_ENVELOPE, hop_limit=2)),
        ],
    )
    def test_wrong_address_is_refused(self, message: OldMessage, envelope: Envelope) -> None:
        with pytest.raises(BadDatagram):
            mld.parse_old_untrusted(mld.build_old(message), envelope)


class TestQuery:
    def test_general_query_in_literal_bytes(self) -> None:
        message = mld.build_query(Query(max_response=1.0, robustness=2, interval=30))
        assert message.hex() == "8200000003e80000" + "00" * 16 + "021e0000"

    def test_specific_query_in_literal_bytes(self) -> None:
        message = mld.build_query(Query(GROUP, 0.2, suppress=True, robustness=2, interval=125, sources=(SOURCE,)))
        assert message.hex() == "8200000000c80000" + GROUP.hex() + "0a7d0001" + SOURCE.hex()

    @given(
        st.builds(
            Query,
            st.one_of(st.just(mld.UNSPECIFIED), groups),
            st.integers(0, 32767).map(lambda ms: ms / 1000),
            st.booleans(),
            st.integers(0, 7),
            st.integers(0, 127),
            st.lists(addresses, max_size=4).map(tuple),
        )
    )
    def test_version_2_comes_back(self, query: Query) -> None:
        assert mld.parse_query_untrusted(mld.build_query(query), QUERY_ENVELOPE) == query

    @given(st.integers(0, 32767))
    def test_version_1_comes_back(self, milliseconds: int) -> None:
        query = Query(GROUP, milliseconds / 1000, version=1)
        message = mld.build_query(query)
        assert len(message) == 24
        assert mld.parse_query_untrusted(message, QUERY_ENVELOPE) == query

    def test_version_1_delay_is_no_code(self) -> None:
        message = bytes.fromhex("82000000ffff0000") + bytes(16)
        assert mld.parse_query_untrusted(message, QUERY_ENVELOPE).max_response == 65.535

    def test_robustness_too_large_for_the_field_is_sent_as_zero(self) -> None:
        assert mld.parse_query_untrusted(mld.build_query(Query(robustness=8)), QUERY_ENVELOPE).robustness == 0

    @pytest.mark.parametrize("length", [0, 4, 23, 25, 27])
    def test_impossible_lengths_are_refused(self, length: int) -> None:
        message = (mld.build_query(Query()) + bytes(4))[:length]
        with pytest.raises(BadDatagram):
            mld.parse_query_untrusted(message, QUERY_ENVELOPE)

    @pytest.mark.parametrize("query", [Query(SOURCE), Query(HOST, version=1)])
    def test_query_for_no_group_is_refused(self, query: Query) -> None:
        with pytest.raises(BadDatagram):
            mld.parse_query_untrusted(mld.build_query(query), QUERY_ENVELOPE)

    def test_missing_sources_are_refused(self) -> None:
        message = mld.build_query(Query(GROUP, sources=(SOURCE, SOURCE)))
        with pytest.raises(BadDatagram):
            mld.parse_query_untrusted(message[:-1], QUERY_ENVELOPE)


class TestCodes:
    @pytest.mark.parametrize(
        ("code", "milliseconds"), [(0, 0), (32767, 32767), (0x8000, 32768), (0x8001, 32776), (0xFFFF, 8387584)]
    )
    def test_max_response(self, code: int, milliseconds: int) -> None:
        assert mld.decode_max_response(code) == milliseconds
        assert mld.encode_max_response(milliseconds) == code

    @pytest.mark.parametrize(("code", "seconds"), [(0, 0), (127, 127), (0x80, 128), (0x81, 136), (0xFF, 31744)])
    def test_qqic(self, code: int, seconds: int) -> None:
        assert mld.decode_qqic(code) == seconds
        assert mld.encode_qqic(seconds) == code

    @given(st.integers(0, 0xFFFF))
    def test_every_max_response_code_comes_back(self, code: int) -> None:
        assert mld.encode_max_response(mld.decode_max_response(code)) == code

    @given(st.integers(0, 0xFF))
    def test_every_qqic_comes_back(self, code: int) -> None:
        assert mld.encode_qqic(mld.decode_qqic(code)) == code

    @given(st.integers(0, 10**8))
    def test_encoding_rounds_down(self, milliseconds: int) -> None:
        code = mld.encode_max_response(milliseconds)
        assert mld.decode_max_response(code) <= milliseconds
        assert code == 0xFFFF or mld.decode_max_response(code + 1) > milliseconds


class TestChecksum:
    def test_of_a_captured_report(self) -> None:
        # What Linux 6.18 sent when fe80::1 joined ff15::8000:1.
        message = mld.build_report([Record(RecordType.CHANGE_TO_EXCLUDE_MODE, GROUP)])
        assert mld.with_checksum(HOST, mld.ALL_MLDV2_ROUTERS, message)[2:4].hex() == "eff5"

    @given(addresses, addresses, st.binary(min_size=4, max_size=80))
    def test_agrees_with_the_definition(self, source: bytes, destination: bytes, message: bytes) -> None:
        padded = source + destination + struct.pack(">II", len(message), 58) + message + b"\0" * (len(message) % 2)
        total = sum(struct.unpack(f">{len(padded) // 2}H", padded))
        while total > 0xFFFF:
            total = (total & 0xFFFF) + (total >> 16)
        assert mld.icmpv6_checksum(source, destination, message) == total ^ 0xFFFF

    @given(addresses, addresses, st.binary(min_size=4, max_size=80))
    def test_of_a_complete_message_is_zero(self, source: bytes, destination: bytes, message: bytes) -> None:
        complete = mld.with_checksum(source, destination, message[:2] + b"\0\0" + message[4:])
        assert mld.icmpv6_checksum(source, destination, complete) == 0


class TestRouterAlert:
    @pytest.mark.parametrize(
        ("header", "found"),
        [
            ("3a00 0502 0000 0100", True),
            ("3a00 0100 0502 0000", True),
            ("3a00 0000 0502 0000", True),
            ("3a01 0108 0000 0000 0000 0000 0502 0000", True),
            ("3a00 0502 0001 0100", False),
            ("3a00 0104 0000 0000", False),
            ("3a00 0503 0000 0000", False),
        ],
    )
    def test_options(self, header: str, found: bool) -> None:
        assert mld.has_router_alert_untrusted(bytes.fromhex(header)) is found

    def test_what_is_sent_is_one(self) -> None:
        assert mld.has_router_alert_untrusted(mld.ROUTER_ALERT_HOP_BY_HOP)

    @pytest.mark.parametrize("header", ["", "3a", "3a00 0502 0000", "3a01 0502 0000 0100", "3a00 0505 0000 0100"])
    def test_wrong_lengths_are_refused(self, header: str) -> None:
        with pytest.raises(BadDatagram):
            mld.has_router_alert_untrusted(bytes.fromhex(header))


class TestPacket:
    # What Linux 6.18 sent when fe80::1 joined ff15::8000:1.
    PACKET = bytes.fromhex(
        "6000000000240001"
        "fe800000000000000000000000000001"
        "ff020000000000000000000000000016"
        "3a00050200000100"
        "8f00eff500000001"
        "04000000ff150000000000000000000080000001"
    )

    def test_captured_report(self) -> None:
        envelope, message = mld.open_packet_untrusted(self.PACKET, 2)
        assert envelope == REPORT_ENVELOPE
        wanted = [Record(RecordType.CHANGE_TO_EXCLUDE_MODE, GROUP)]
        assert mld.parse_report_untrusted(message, envelope) == wanted

    def test_padding_of_the_frame_is_cut_off(self) -> None:
        assert mld.open_packet_untrusted(self.PACKET + b"padding", 2) == mld.open_packet_untrusted(self.PACKET, 2)

    @pytest.mark.parametrize("position", [0, 4, 5, 6, 8, 24, 40, 41, 48, 50, 60])
    def test_damage_is_refused(self, position: int) -> None:
        damaged = bytearray(self.PACKET)
        damaged[position] ^= 0x21
        with pytest.raises(BadDatagram):
            mld.open_packet_untrusted(bytes(damaged), 2)

    @pytest.mark.parametrize("length", range(76))
    def test_cut_off_is_refused(self, length: int) -> None:
        with pytest.raises(BadDatagram):
            mld.open_packet_untrusted(self.PACKET[:length], 2)

    @given(st.binary(max_size=100))
    def test_garbage(self, rest: bytes) -> None:
        with contextlib.suppress(BadDatagram):
            mld.open_packet_untrusted(self.PACKET[:4] + rest, 2)


class TestRouterDiscovery:
    @pytest.mark.parametrize(
        ("message", "wire"),
        [
            (Advertisement(20, 30, 2), "97140000001e0002"),
            (Solicitation(), "98000000"),
            (Termination(), "99000000"),
        ],
    )
    def test_both_ways(self, message: mld.RouterDiscovery, wire: str) -> None:
        assert mld.build_router_discovery(message).hex() == wire
        assert mld.parse_router_discovery_untrusted(bytes.fromhex(wire), QUERY_ENVELOPE) == message

    @pytest.mark.parametrize("wire", ["", "97140000001e00", "980000", "990000", "9a000000"])
    def test_malformed_is_refused(self, wire: str) -> None:
        with pytest.raises(BadDatagram):
            mld.parse_router_discovery_untrusted(bytes.fromhex(wire), QUERY_ENVELOPE)


PARSERS = [
    mld.parse_report_untrusted,
    mld.parse_old_untrusted,
    mld.parse_query_untrusted,
    mld.parse_router_discovery_untrusted,
]


class TestGarbage:
    """Whatever comes, the parsers return or raise BadDatagram: any other exception fails the test by itself."""

    @given(st.sampled_from([130, 131, 132, 143, 151, 152, 153]), st.binary(max_size=120), envelopes)
    def test_random_bytes(self, kind: int, rest: bytes, envelope: Envelope) -> None:
        refuse_or_return(bytes((kind,)) + rest, envelope)

    @given(st.lists(records, max_size=6), st.data())
    def test_damaged_reports(self, wanted: list[Record], data: st.DataObject) -> None:
        message = bytearray(mld.build_report(wanted))
        for _ in range(data.draw(st.integers(1, 4))):
            message[data.draw(st.integers(0, len(message) - 1))] = data.draw(st.integers(0, 255))
        refuse_or_return(bytes(message[: data.draw(st.integers(0, len(message)))]), REPORT_ENVELOPE)

    @given(st.binary(max_size=40))
    def test_hop_by_hop_headers(self, header: bytes) -> None:
        with contextlib.suppress(BadDatagram):
            mld.has_router_alert_untrusted(header)


def refuse_or_return(message: bytes, envelope: Envelope) -> None:
    for parse in PARSERS:
        with contextlib.suppress(BadDatagram):
            parse(message, envelope)


@pytest.mark.parametrize(
    ("records", "expected"),
    [
        ([Record(RecordType.CHANGE_TO_INCLUDE_MODE, GROUP)], True),
        ([Record(RecordType.CHANGE_TO_INCLUDE_MODE, GROUP)] * 72, True),
        ([Record(RecordType.CHANGE_TO_INCLUDE_MODE, GROUP)] * 3 + [Record(RecordType.MODE_IS_EXCLUDE, GROUP)], False),
        ([Record(RecordType.CHANGE_TO_INCLUDE_MODE, GROUP, (bytes(16),))], False),
        ([Record(RecordType.CHANGE_TO_INCLUDE_MODE, GROUP, (bytes(16),) * 5)], False),
        ([Record(RecordType.CHANGE_TO_EXCLUDE_MODE, GROUP)], False),
    ],
)
def test_reports_of_leaves(records: list[Record], expected: bool) -> None:
    assert mld.is_of_leaves(mld.build_report(records)) is expected
