"""System calls on files that fail, do half or take long, under a real broker: EIO and its kin by LD_PRELOAD (PROPERTIES D1, D11, D12, D13).

The shim fails the nth call of a kind on the files that a glob names, while the broker runs. Needs gcc.
"""

import errno
import re
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from tests.support.batches import encode_batch
from tests.support.deadline import until
from tests.support.errors import ErrorCode
from tests.support.processes import IS_KAFKA, RunningServer, running_server
from tests.support.shim import Shim
from tests.support.topics import create_topic, fetch, fetch_values, init_producer_id, list_offset, produce
from tests.support.wire import Connection, address_of, connect

pytestmark = pytest.mark.skipif(IS_KAFKA, reason="it ends when its disk fails")

STORAGE_ERROR = ErrorCode.kafka_storage_error
DELAY_US = 100_000
"""A disk twenty times slowed: far longer than anything takes on a busy machine that does not wait for it."""
SLOW_WRITES = 10


@dataclass
class Hospital:
    """A broker whose calls can be made to fail; shared by the tests of this module, since each start of one takes its time."""

    shim: Shim
    server: RunningServer
    patients: "list[Patient]" = field(default_factory=list["Patient"])
    """Those who are looked at after the next restart."""

    def restart(self) -> None:
        """Kill the broker and start it on a disk that is well."""
        self.check_no_bug()
        self.server.kill()
        self.shim.clear()
        self.server.start()
        with connect(self.server.bootstrap) as connection:
            while self.patients:
                self.patients.pop().check_kept(connection)

    def check_no_bug(self) -> None:
        """The broker lives, and said nothing of a bug."""
        assert "Traceback" not in self.server.log_text()
        assert Path(f"/proc/{self.server.pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"


@pytest.fixture(scope="module")
def hospital(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hospital]:
    folder = tmp_path_factory.mktemp("hospital")
    shim = Shim(folder / "shim")
    settings = {"replica.high.watermark.checkpoint.interval.ms": "50", "offsets.topic.num.partitions": "1"}
    with running_server(folder, settings, environment=shim.environment) as server:
        hospital = Hospital(shim, server)
        yield hospital
        hospital.restart()


class Patient:
    """A topic that is hurt, what was acked there, and a topic that is not."""

    def __init__(self, hospital: Hospital) -> None:
        self.hospital, self.shim, self.server = hospital, hospital.shim, hospital.server
        self.log_start = len(self.server.log_text())
        self.connection = Connection(address_of(self.server.bootstrap))
        rolling = {"segment.bytes": "4096"}
        self.hurt = create_topic(self.connection, "hurt", configs=rolling)
        self.well = create_topic(self.connection, "well", configs=rolling)
        self.told: dict[int, bytes] = {}
        self._sent_count = 0
        for _ in range(3):
            assert self.send() == ErrorCode.none
        assert produce(self.connection, self.well, encode_batch([b"0"])).error_code == 0

    def files(self, pattern: str) -> str:
        """A glob for files of the hurt partition."""
        return f"*/{self.hurt}-0/{pattern}"

    def send(self) -> ErrorCode:
        """Produce one record to the hurt topic, and note it if it is acked."""
        value = b"%d/" % self._sent_count * 50
        self._sent_count += 1
        answer = produce(self.connection, self.hurt, encode_batch([value]))
        if answer.error_code == ErrorCode.none:
            assert answer.base_offset not in self.told
            self.told[answer.base_offset] = value
        else:
            assert answer.base_offset == -1
        return ErrorCode(answer.error_code)

    def found(self) -> dict[int, bytes]:
        """All that the hurt topic holds."""
        return dict(fetch_values(self.connection, self.hurt))

    def check_others(self) -> None:
        """The other topic takes and gives records."""
        before = fetch_values(self.connection, self.well)
        assert produce(self.connection, self.well, encode_batch([b"more"])).base_offset == len(before)
        assert len(fetch_values(self.connection, self.well)) == len(before) + 1

    def error_lines(self) -> list[str]:
        """What the log says of the hurt partition's errors."""
        lines = self.server.log_text().splitlines()
        return [line for line in lines if " ERROR " in line and f"{self.hurt}-0" in line]

    def restart(self) -> None:
        """A restart of the broker, and a new connection."""
        self.connection.close()
        self.hospital.restart()
        self.connection = Connection(address_of(self.server.bootstrap))

    def check_kept(self, connection: Connection) -> None:
        """After a restart: what was acked is there; what was refused is there or not, in whole and once; and writing goes on."""
        self.connection = connection
        found = self.found()
        assert list(found) == list(range(len(found)))
        assert {offset: found.get(offset) for offset in self.told} == self.told
        own = [value for value in found.values() if b"/" in value]
        assert len(set(own)) == len(own), "a record is there twice"
        assert self.send() == ErrorCode.none
        assert max(self.told) == len(found)
        self.hospital.check_no_bug()


@pytest.fixture
def patient(hospital: Hospital) -> Iterator[Patient]:
    """After the test the patient waits for the next restart, at the latest at the end of the module: what was acked must be there."""
    one = Patient(hospital)
    yield one
    hospital.shim.clear()
    hospital.patients.append(one)
    one.connection.close()
    print(hospital.server.log_text()[one.log_start :][-4000:])


def test_a_failed_sync_is_tried_again_and_called_good(patient: Patient) -> None:
    """The kernel tells a failed sync once; the next one says yes over pages that are not on the disk."""
    rule = patient.shim.fail("sync", patient.files("*.log"), times=1)
    assert patient.send() == STORAGE_ERROR
    assert rule.hit_count == 1
    for _ in range(3):
        assert patient.send() == STORAGE_ERROR
    answer = fetch(patient.connection, patient.hurt, 0)
    assert answer.error_code == STORAGE_ERROR or answer.high_watermark == len(patient.told)
    patient.check_others()
    (line,) = patient.error_lines()
    assert re.search(r"hurt-\S+-0/0+\.log: Input/output error", line)


def test_a_failed_write_is_acked_or_leaves_half_a_batch(patient: Patient) -> None:
    patient.shim.fail("write", patient.files("*.log"), skip=1, times=1)
    assert patient.send() == ErrorCode.none
    assert patient.send() == STORAGE_ERROR
    assert patient.send() == STORAGE_ERROR, (
        "whether the failed write is in the file is unclear: the log is offline"
    )
    patient.check_others()


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_half_a_batch_stays_when_there_is_no_room_for_the_rest(code: int, patient: Patient) -> None:
    shortened = patient.shim.shorten(patient.files("*.log"), times=1)
    patient.shim.fail("write", patient.files("*.log"), code=code, skip=1, times=2)
    assert [patient.send() for _ in range(4)] == [
        STORAGE_ERROR,
        STORAGE_ERROR,
        ErrorCode.none,
        ErrorCode.none,
    ]
    assert shortened.hit_count == 1
    assert patient.found() == patient.told
    patient.check_others()


def test_short_writes_tear_batches(patient: Patient) -> None:
    rule = patient.shim.shorten("*")
    sent = [patient.send() for _ in range(40)]
    assert sent == [ErrorCode.none] * 40
    assert rule.hit_count > 40
    rule.lift()
    assert patient.found() == patient.told


ROLL_FAULTS = [
    ("open", "*.log", errno.EIO),
    ("open", "*.log", errno.EMFILE),
    ("open", "*.snapshot*", errno.ENOSPC),
    ("rename", "*.snapshot", errno.EIO),
    ("write", "*.index", errno.EIO),
    ("sync", "*.snapshot*", errno.EIO),
]


def test_a_roll_that_fails_loses_records_or_the_broker(hospital: Hospital) -> None:
    """It is refused to whoever wants to write; once the disk is well writing goes on, and all is there after a restart."""
    for call, pattern, code in ROLL_FAULTS:
        patient = Patient(hospital)
        hospital.patients.append(patient)
        rule = patient.shim.fail(call, patient.files(pattern), code=code)
        refused_at = next(number for number in range(200) if patient.send() == STORAGE_ERROR)
        assert (refused_at > 0, rule.hit_count > 0) == (True, True)
        assert [patient.send() for _ in range(3)] == [STORAGE_ERROR] * 3
        assert patient.found() == patient.told
        patient.check_others()
        rule.lift()
        assert patient.send() == ErrorCode.none, "an error of a roll is no reason to be offline"
        assert patient.found() == patient.told
        patient.connection.close()


def test_a_read_that_fails_is_answered_with_nothing_or_ends_the_broker(patient: Patient) -> None:
    for _ in range(20):
        assert patient.send() == ErrorCode.none
    patient.restart()  # what this process has written itself, it need not read to check it
    rule = patient.shim.fail("read", patient.files("*.log"))
    answer = fetch(patient.connection, patient.hurt, 0)
    assert (answer.error_code, len(answer.records or b"")) == (STORAGE_ERROR, 0)
    assert rule.hit_count > 0
    patient.check_others()
    rule.lift()
    assert patient.found() == patient.told


@pytest.mark.parametrize("name", ["replication-offset-checkpoint", "recovery-point-offset-checkpoint"])
def test_a_checkpoint_that_fails_ends_the_broker(name: str, patient: Patient) -> None:
    rule = patient.shim.fail("rename", f"*/{name}")
    until(lambda: patient.send() == ErrorCode.none and rule.hit_count > 1, "two failed checkpoints")
    patient.check_others()


def test_a_metadata_store_that_fails_ends_the_broker_or_makes_it_lie(patient: Patient) -> None:
    """What is there is served; what can't be written down is refused."""
    patient.shim.fail("sync", "*/metadata.db*")
    topic = {"name": "unheard", "num_partitions": 1, "replication_factor": 1}
    reply = patient.connection.request("create_topics", 7, topics=[topic], timeout=1000)
    assert reply.topics[0].error_code != 0
    assert patient.send() == ErrorCode.none
    patient.check_others()
    patient.restart()


def test_a_slow_disk_stops_those_who_do_not_wait_for_it(patient: Patient) -> None:
    """A sync takes 100 ms: who waits for one waits; reads, other requests and other partitions do not (PROPERTIES D13)."""
    shim, connection = patient.shim, patient.connection
    shim.delay("sync", patient.files("*.log"), DELAY_US)
    is_over = threading.Event()
    sync_times, ping_times, write_times = list[float](), list[float](), list[float]()

    def write_slowly() -> None:
        with connect(patient.server.bootstrap) as own:
            while not is_over.is_set():
                sync_times.append(timed(lambda: produce(own, patient.hurt, encode_batch([b"slow"]))))

    writers = [threading.Thread(target=write_slowly) for _ in range(4)]
    for writer in writers:
        writer.start()
    while len(sync_times) < 24:
        ping_times.append(timed(lambda: connection.request("api_versions", 0)))
        ping_times.append(timed(lambda: fetch(connection, patient.hurt, 0)))
        write_times.append(timed(lambda: produce(connection, patient.well, encode_batch([b"quick"]))))
    is_over.set()
    for writer in writers:
        writer.join()
    delay_s = DELAY_US / 1e6
    print({name: statistics.median(times) for name, times in (("p", ping_times), ("w", write_times))})
    assert statistics.median(sync_times) > delay_s
    assert statistics.median(ping_times) < delay_s / 5
    assert statistics.quantiles(ping_times, n=20)[-1] < delay_s / 2, "some wait for another's sync"
    assert statistics.median(write_times) < delay_s / 2


def timed(call: Callable[[], object]) -> float:
    """Seconds that it took."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def test_slow_writes_stop_the_event_loop(patient: Patient) -> None:
    """Past 5 ms an append goes to a worker, until the disk is quick again: others wait for one write at the most, not for each."""
    rule = patient.shim.delay("write", patient.files("*.log"), DELAY_US)
    assert patient.send() == ErrorCode.none
    answered = threading.Event()

    def write() -> None:
        with connect(patient.server.bootstrap) as own:
            for _ in range(SLOW_WRITES):
                assert produce(own, patient.hurt, encode_batch([b"slow"])).error_code == 0
        answered.set()

    writer = threading.Thread(target=write)
    writer.start()
    held_up = 0
    while not answered.is_set():
        held_up += timed(lambda: patient.connection.request("api_versions", 0)) > DELAY_US / 2e6
    writer.join()
    assert held_up < SLOW_WRITES / 2
    rule.lift()
    assert patient.send() == ErrorCode.none


def test_an_idempotent_producer_does_not_get_over_a_failed_write(patient: Patient) -> None:
    """The refused batch is sent again after the restart, and is there once."""
    connection, topic = patient.connection, patient.hurt
    identity, epoch = init_producer_id(connection)
    sent = [
        encode_batch([b"i%d" % number], producer_id=identity, producer_epoch=epoch, base_sequence=number)
        for number in range(4)
    ]
    assert produce(connection, topic, sent[0]).error_code == 0
    patient.shim.fail("sync", patient.files("*.log"), times=1)
    assert produce(connection, topic, sent[1]).error_code == STORAGE_ERROR
    assert produce(connection, topic, sent[1]).error_code == STORAGE_ERROR
    patient.restart()
    for number in (1, 1, 2, 3):
        assert produce(patient.connection, topic, sent[number]).error_code == 0
    values = list(patient.found().values())
    assert values[-4:] == [b"i0", b"i1", b"i2", b"i3"]
    assert list_offset(patient.connection, topic, -1)[0] == len(values)
