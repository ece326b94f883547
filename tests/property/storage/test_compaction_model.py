"""Compaction against a dict: whatever was written and in whatever steps it is compacted, the latest value of each key stays (PROPERTIES K2)."""

import os

import hypothesis.strategies as st
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from tests.support.compaction import Kept, append_raw, compact, kept_records, keyed, marker
from tests.support.logs import DIRECTORY, NOW_MS, new_log, read_batches, reopen
from tests.support.memory_files import MemoryFiles

from penstock.protocol.compression import Codec
from penstock.protocol.record_batch import read_batch_header
from penstock.protocol.record_filter import ControlType
from penstock.storage.log import Log
from penstock.storage.log_config import LogConfig
from penstock.storage.verify import verify_partition

KEYS = st.sampled_from([b"a", b"b", b"c", b"d", None])
VALUES = st.sampled_from([b"1", b"2", b"x" * 60, None])
PAIRS = st.lists(st.tuples(KEYS, VALUES), min_size=1, max_size=4)
RETENTION_MS = 1000


class CompactionMachine(RuleBasedStateMachine):
    """`written` is the model: every record of data, in order, with the number of its transaction (-1: none)."""

    def __init__(self) -> None:
        super().__init__()
        self.files = MemoryFiles()
        self.config = LogConfig()
        self.log: Log = new_log(self.files)
        self.written: list[tuple[Kept, int]] = []
        self.open: dict[int, int] = {}
        """By producer, its open transaction."""
        self.aborted: set[int] = set()
        self.transaction_count = 0
        self.sequences = {1: 0, 2: 0, 3: 0}
        self.cleaned = 0
        self.now_ms = NOW_MS

    @initialize(segment_bytes=st.sampled_from([200, 500, 1500]), interval=st.sampled_from([0, 90, 4096]))
    def start(self, segment_bytes: int, interval: int) -> None:
        self.config = LogConfig(
            compact=True,
            delete=False,
            segment_bytes=segment_bytes,
            index_interval_bytes=interval,
            delete_retention_ms=RETENTION_MS,
        )
        self.files = MemoryFiles()
        self.log = new_log(self.files, self.config)

    # Writing

    @rule(pairs=PAIRS, codec=st.sampled_from(list(Codec)), producer_id=st.sampled_from([-1, 1, 2, 3]))
    def write(self, pairs: list[tuple[bytes | None, bytes | None]], codec: Codec, producer_id: int) -> None:
        if producer_id in self.open:
            return
        self.append(pairs, codec, producer_id, -1)

    @rule(pairs=PAIRS, codec=st.sampled_from(list(Codec)), producer_id=st.sampled_from([1, 2, 3]))
    def write_in_a_transaction(
        self, pairs: list[tuple[bytes | None, bytes | None]], codec: Codec, producer_id: int
    ) -> None:
        if producer_id not in self.open:
            self.open[producer_id] = self.transaction_count
            self.transaction_count += 1
        self.append(pairs, codec, producer_id, self.open[producer_id])

    def append(
        self,
        pairs: list[tuple[bytes | None, bytes | None]],
        codec: Codec,
        producer_id: int,
        transaction: int,
    ) -> None:
        raw = keyed(
            pairs,
            codec=codec,
            producer_id=producer_id,
            sequence=self.sequences.get(producer_id, -1),
            is_transactional=transaction >= 0,
        )
        base_offset = append_raw(self.log, raw)
        if producer_id >= 0:
            self.sequences[producer_id] += len(pairs)
        self.written += [
            (Kept(base_offset + i, key, value), transaction) for i, (key, value) in enumerate(pairs)
        ]

    @precondition(lambda self: self.open)
    @rule(data=st.data(), kind=st.sampled_from(list(ControlType)))
    def end_a_transaction(self, data: st.DataObject, kind: ControlType) -> None:
        producer_id = data.draw(st.sampled_from(sorted(self.open)))
        transaction = self.open.pop(producer_id)
        if kind is ControlType.ABORT:
            self.aborted.add(transaction)
        append_raw(self.log, marker(kind, producer_id=producer_id))

    @rule()
    def roll(self) -> None:
        self.log.roll()

    # Compacting

    @rule(
        map_bytes_max=st.sampled_from([1, 200, 1 << 20]),
        passed_ms=st.sampled_from([0, 1, RETENTION_MS]),
        forgets=st.booleans(),
        bound=st.sampled_from([0.3, 1.0, 1.0]),
        rolls=st.booleans(),
    )
    def compact(self, map_bytes_max: int, passed_ms: int, forgets: bool, bound: float, rolls: bool) -> None:
        self.now_ms += passed_ms
        if rolls:
            self.log.roll()
        ends = [0, *(read_batch_header(raw).next_offset for raw in read_batches(self.log))]
        committed = ends[int((len(ends) - 1) * bound)]
        first_dirty = 0 if forgets else self.cleaned
        result = compact(
            self.log,
            first_dirty=first_dirty,
            committed=committed,
            now_ms=self.now_ms,
            map_bytes_max=map_bytes_max,
        )
        assert result.first_dirty_offset <= max(committed, first_dirty)
        undecided = [kept.offset for kept, transaction in self.written if transaction in self.open.values()]
        assert result.first_dirty_offset <= min(undecided, default=self.log.log_end_offset)
        self.cleaned = result.first_dirty_offset
        self.written = [entry for entry in self.written if self.may_stay(*entry, first_dirty)]
        present = {record.offset for record in kept_records(self.log)}
        # a tombstone may have gone since its horizon passed; nothing else may
        self.written = [
            entry for entry in self.written if entry[0].value is not None or entry[0].offset in present
        ]
        self.look_closely()

    def look_closely(self) -> None:
        """What must be true of the batches and segments, whatever is in them."""
        headers = [read_batch_header(raw) for raw in read_batches(self.log)]
        ends = {header.next_offset for header in headers}
        assert all(segment.base_offset in ends for segment in self.log.segments[1:])
        undecided = set(self.open)
        for header in reversed(headers):
            if header.is_control:
                undecided.add(header.producer_id)
            elif header.is_transactional:
                assert header.producer_id in undecided, "a marker has gone before its batches"
            else:
                undecided.discard(header.producer_id)
        verdict = verify_partition(self.files, DIRECTORY)
        assert verdict.is_good, verdict.faults
        assert not verdict.index_faults

    def may_stay(self, record: Kept, transaction: int, first_dirty: int) -> bool:
        if record.offset >= self.cleaned:
            return True
        if record.key is None or transaction in self.aborted:
            return False
        later = [
            other.offset
            for other, its_transaction in self.written
            if other.key == record.key
            and other.offset < self.cleaned
            and its_transaction not in self.aborted
            and other.offset >= first_dirty
        ]
        return record.offset >= max(later, default=-1)

    @rule()
    def compact_twice(self) -> None:
        """With nothing new, a second time makes nothing of it but larger segments and the markers' horizons."""
        before: list[Kept] = []
        for _ in range(2):
            before = kept_records(self.log)
            self.cleaned = compact(self.log, first_dirty=self.cleaned, now_ms=self.now_ms).first_dirty_offset
            self.written = [entry for entry in self.written if self.may_stay(*entry, 0)]
            present = {record.offset for record in kept_records(self.log)}
            self.written = [e for e in self.written if e[0].value is not None or e[0].offset in present]
        assert kept_records(self.log) == before

    # Ends

    @rule(is_clean=st.booleans())
    def restart(self, is_clean: bool) -> None:
        if is_clean:
            self.log.close()
            self.files.power_cut()
        else:
            self.log.sync()
            for name in self.files.list_directory(DIRECTORY):
                if name.endswith(".snapshot"):
                    self.files.unlink(f"{DIRECTORY}/{name}")
            self.files.kill()
        self.log = reopen(self.files, self.config, clean=is_clean)
        for producer_id, sequence in self.sequences.items():
            entry = self.log._producers.get(producer_id)  # pyright: ignore[reportPrivateUsage]
            assert (entry is not None and entry.batches[-1].last_sequence + 1 if sequence else 0) == sequence

    @invariant()
    def the_log_holds_what_may_stay(self) -> None:
        assert kept_records(self.log) == [record for record, _ in self.written]


CompactionMachine.TestCase.settings = settings(
    max_examples=int(os.environ.get("COMPACTION_EXAMPLES", "100")), stateful_step_count=40, deadline=None
)
TestCompactionMachine = CompactionMachine.TestCase
