"""The same records through other clients' writers and readers, in all codecs and both directions."""

from pathlib import Path

import pytest
from tests.support.record_peers import RecordPeer, peers

from penstock.protocol.compression import LEVELS, Codec
from penstock.protocol.record_batch import check_produced_batch
from penstock.protocol.records import Record, decode_records, encode_batch

LINES = (Path(__file__).parents[2] / "data" / "loghub" / "OpenSSH_2k.log").read_bytes().splitlines()
RECORDS = [
    Record(
        offset=place,
        timestamp=1_700_000_000_000 + place * 13 % 101,
        key=None if place % 3 == 0 else b"%d" % place,
        value=None if place % 7 == 0 else line,
        headers=(("h", line[:9]), ("schlüssel", b"")) if place % 5 == 0 else (),
    )
    for place, line in enumerate(LINES)
]
CASES = [
    pytest.param(peer, codec, records, id=f"{peer.name}-{codec.name.lower()}-{len(records)}")
    for peer in peers()
    for codec in Codec
    for records in (RECORDS[:1], RECORDS)
]

assert sum(len(line) for line in LINES) > 128 * 1024, "several blocks of snappy and lz4"


@pytest.mark.parametrize(("peer", "codec", "records"), CASES)
def test_what_a_peer_wrote_is_read(peer: RecordPeer, codec: Codec, records: list[Record]) -> None:
    batch = memoryview(peer.build(records, codec))
    header = check_produced_batch(batch)
    assert (header.producer_id, header.record_count) == (77, len(records))
    assert header.codec is codec or len(records) == 1  # some leave uncompressed what would only grow
    assert header.last_sequence == (2**31 - 3 + len(records)) % 2**31
    assert decode_records(batch, output_max_bytes=1 << 20) == records


@pytest.mark.parametrize(("peer", "codec", "records"), CASES)
def test_what_we_wrote_a_peer_reads(peer: RecordPeer, codec: Codec, records: list[Record]) -> None:
    levels = (None, LEVELS[codec][0], LEVELS[codec][-1]) if codec in LEVELS else (None,)
    for level in levels[: 1 if len(records) > 1 else None]:
        assert peer.read(encode_batch(records, codec=codec, level=level)) == records


@pytest.mark.parametrize("peer", peers(), ids=lambda peer: peer.name)
def test_uncompressed_bytes_are_the_peers(peer: RecordPeer) -> None:
    ours = encode_batch(
        RECORDS,
        codec=Codec.NONE,
        producer_id=77,
        producer_epoch=3,
        base_sequence=2**31 - 2,
        partition_leader_epoch=-1,
    )
    theirs = bytearray(peer.build(RECORDS, Codec.NONE))
    theirs[12:16] = ours[12:16]  # the leader epoch is the broker's to write
    assert ours == bytes(theirs)
