"""Writers of keyed records with acks=all and idempotence: librdkafka, aiokafka, Penstock's producer, kcat and Java's verifiable producer.

Each keeps a `WriterLedger`. The first three are threads of the test, the others processes. A record that a client gives up on fails the
writer: through any fault that leaves a majority, clients get their records in.
"""

import asyncio
import importlib
import itertools
import json
import logging
import os
import subprocess
import threading
from pathlib import Path
from typing import Any

import trio
from bench.peers.kafka import PeerMissing, Tool, tool_command
from confluent_kafka import KafkaError, Message, Producer
from tests.support.clients import librdkafka
from tests.support.cluster.ledger import KEY_COUNT, WriterLedger, key_of, origin_of, value_of
from tests.support.load.actors import Actor
from tests.support.requirements import need, need_program

import penstock

PATIENCE_S = 90.0
RATE_PER_S = int(os.environ.get("WRITER_RATE", "20"))
"""Records a second of each writer: one that finds what is lost, and leaves room for the other tests. `make long` writes more."""
ON_THE_WAY_MAX = 100
_prefixes = itertools.count(1)


class Writer(Actor):
    """Writes to one topic until `stop`; `finish` waits for all acks."""

    def __init__(self, bootstrap: str, topic: str, name: str) -> None:
        super().__init__(bootstrap, name)
        self.topic = topic
        self.ledger = WriterLedger(name)

    @property
    def acked_count(self) -> int:
        """Records acked so far."""
        return len(self.ledger.acked)

    @property
    def has_room(self) -> bool:
        """Whether so few records are on their way that one more may be sent."""
        return self.ledger.sent_count - self.acked_count < ON_THE_WAY_MAX

    def pause(self) -> None:
        """Keep to the rate."""
        self.stopping.wait(1 / RATE_PER_S)

    def finish(self) -> None:
        """Wait for the acks of all that was sent. After `stop`. AssertionError where one is missing."""

    def close(self) -> None:
        """End what is left, at once."""


def kept_log(name: str, path: Path) -> logging.Logger:
    """A logger that writes to a file and nowhere else: a line for each attempt at a dead broker is of interest only after a failure."""
    logger = logging.getLogger(name)
    for handler in logger.handlers[:]:
        logger.removeHandler(handler)
        handler.close()
    handler = logging.FileHandler(path)
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG if name.startswith("librdkafka") else logging.INFO)
    logger.propagate = False
    return logger


class LibrdkafkaWriter(Writer):
    """librdkafka in this process. What it tells of its sequences is in `<name>.log`."""

    def __init__(self, bootstrap: str, topic: str, folder: Path, name: str = "librdkafka") -> None:
        super().__init__(bootstrap, topic, name)
        self._error: KafkaError | None = None
        self._producer: Producer = librdkafka.make_producer(
            bootstrap,
            enable_idempotence=True,
            acks="all",
            linger_ms=1,
            message_timeout_ms=int(PATIENCE_S * 1000),
            socket_timeout_ms=10_000,
            retry_backoff_ms=20,
            retry_backoff_max_ms=200,
            reconnect_backoff_ms=20,
            reconnect_backoff_max_ms=200,
            topic_metadata_refresh_interval_ms=1_000,
            debug="eos",
            logger=kept_log(f"librdkafka {topic}", folder / f"{name}.log"),
        )

    def run_once(self) -> None:
        while not self.stopping.is_set():
            if self.has_room:
                number = self.ledger.next_number()
                self._producer.produce(
                    self.topic,
                    value_of(self.name, number),
                    key_of(self.name, number),
                    on_delivery=self._told,
                )
            self._producer.poll(0)
            assert self._error is None, f"{self.name}: {self._error}"
            self.pause()

    def _told(self, error: KafkaError | None, message: Message) -> None:
        if error is not None:
            self._error = self._error or error
            return
        partition, offset = message.partition(), message.offset()
        assert partition is not None
        _, number = origin_of(librdkafka.value_of(message))
        # It does not know the offset of what a later batch's ack has shown to be there.
        self.ledger.ack(number, None if offset is None or offset < 0 else (partition, offset))

    def finish(self) -> None:
        left = self._producer.flush(PATIENCE_S)
        assert left == 0, f"{self.name}: {left} records without an ack"
        assert self._error is None, f"{self.name}: {self._error}"


class AiokafkaWriter(Writer):
    """aiokafka, in an event loop of its own. `stop` waits for all acks. What it tells is in `<name>.log`."""

    def __init__(self, bootstrap: str, topic: str, folder: Path, name: str = "aiokafka") -> None:
        super().__init__(bootstrap, topic, name)
        self._log_path = folder / f"{name}.log"
        self.known_brokers: frozenset[int] = frozenset()
        """Whom it can ask. It never goes back to its bootstrap addresses: the last Metadata is all that it knows."""

    def run_once(self) -> None:
        asyncio.run(self._write())

    async def _write(self) -> None:
        library: Any = importlib.import_module("aiokafka")
        kept_log("aiokafka", self._log_path)
        producer = library.AIOKafkaProducer(
            bootstrap_servers=self.bootstrap,
            enable_idempotence=True,
            acks="all",
            request_timeout_ms=int(PATIENCE_S * 1000),
            retry_backoff_ms=50,
            metadata_max_age_ms=1_000,
        )
        waiting: set[asyncio.Task[None]] = set()
        async with producer:
            while not self.stopping.is_set():
                self.known_brokers = frozenset(broker.nodeId for broker in producer.client.cluster.brokers())
                if self.has_room:
                    number = self.ledger.next_number()
                    sent = await producer.send(
                        self.topic, value_of(self.name, number), key=key_of(self.name, number)
                    )
                    waiting.add(asyncio.create_task(self._await_ack(number, sent)))
                done = {task for task in waiting if task.done()}
                waiting -= done
                for task in done:
                    task.result()
                await asyncio.sleep(1 / RATE_PER_S)
            await asyncio.gather(*waiting)

    async def _await_ack(self, number: int, sent: Any) -> None:
        told = await sent
        self.ledger.ack(number, (told.partition, told.offset))


class PenstockWriter(Writer):
    """Penstock's own producer. `stop` waits for all acks."""

    def __init__(self, bootstrap: str, topic: str, name: str = "penstock") -> None:
        super().__init__(bootstrap, topic, name)

    def run_once(self) -> None:
        trio.run(self._produce)

    async def _produce(self) -> None:
        options: dict[str, Any] = {"delivery_timeout_ms": PATIENCE_S * 1000, "request_timeout_ms": 10_000}
        async with penstock.Producer(self.bootstrap, **options) as producer, trio.open_nursery() as nursery:
            while not self.stopping.is_set():
                if self.has_room:
                    number = self.ledger.next_number()
                    delivery = await producer.enqueue(
                        self.topic, value_of(self.name, number), key=key_of(self.name, number)
                    )
                    nursery.start_soon(self._await_ack, number, delivery)
                await trio.sleep(1 / RATE_PER_S)

    async def _await_ack(self, number: int, delivery: Any) -> None:
        told = await delivery.wait()
        self.ledger.ack(number, (told.partition, told.offset))


class KcatWriter(Writer):
    """kcat, an old librdkafka, as a process that is fed line by line. It tells nothing but, by its exit code, that all was acked."""

    def __init__(self, bootstrap: str, topic: str, folder: Path, name: str = "kcat") -> None:
        super().__init__(bootstrap, topic, name)
        self._error_path = folder / f"{name}.err"
        options = {
            "enable.idempotence": "true",
            "message.timeout.ms": str(int(PATIENCE_S * 1000)),
            "socket.timeout.ms": "10000",
            "reconnect.backoff.max.ms": "200",
            "topic.metadata.refresh.interval.ms": "1000",
        }
        settings = [part for key, value in options.items() for part in ("-X", f"{key}={value}")]
        command = [need_program("kcat"), "-P", "-E", "-b", bootstrap, "-t", topic, "-K", "\t"]
        with self._error_path.open("wb") as err:
            self._process = subprocess.Popen([*command, *settings], stdin=subprocess.PIPE, stderr=err)
        assert self._process.stdin is not None
        self._stdin = self._process.stdin

    def run_once(self) -> None:
        while not self.stopping.is_set():
            number = self.ledger.next_number()
            self._stdin.write(key_of(self.name, number) + b"\t" + value_of(self.name, number) + b"\n")
            self._stdin.flush()
            self.pause()

    def finish(self) -> None:
        self._stdin.close()
        code = self._process.wait(PATIENCE_S)
        told = self._error_path.read_text(errors="replace")
        assert code == 0, f"kcat ended with {code}: {told[-2000:]}"
        assert "Delivery failed" not in told, told[-2000:]
        for number in range(self.ledger.sent_count):
            self.ledger.ack(number, None)

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        self._stdin.close()


class JavaWriter(Writer):
    """Java's verifiable producer as a process; it numbers its records itself and tells each ack in a line of JSON."""

    def __init__(self, bootstrap: str, topic: str, folder: Path) -> None:
        super().__init__(bootstrap, topic, str(next(_prefixes)))
        config = folder / f"java-writer-{self.name}.properties"
        # Its own default is not to send again.
        config.write_text(
            "retries=2147483647\nenable.idempotence=true\nacks=all\nretry.backoff.ms=20\nmetadata.max.age.ms=1000\n"
            f"request.timeout.ms=10000\ndelivery.timeout.ms={int(PATIENCE_S * 1000)}\nreconnect.backoff.max.ms=200\n"
        )
        try:
            command = tool_command(
                Tool.VERIFIABLE_PRODUCER,
                *("--bootstrap-server", bootstrap, "--topic", topic, "--throughput", str(RATE_PER_S)),
                *("--value-prefix", self.name, "--repeating-keys", str(KEY_COUNT)),
                *("--command-config", str(config)),
            )
        except PeerMissing as missing:
            need(False, str(missing))
            raise
        self._error_path = folder / f"java-writer-{self.name}.err"
        with self._error_path.open("wb") as err:
            self._process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=err)
        self._told: threading.Thread | None = None

    def run_once(self) -> None:
        if self._told is None:
            self._told = threading.Thread(target=self._listen, daemon=True)
            self._told.start()
        self.stopping.wait()

    def _listen(self) -> None:
        try:
            assert self._process.stdout is not None
            for line in self._process.stdout:
                self._take(json.loads(line))
        except Exception as failure:  # noqa: BLE001 - told by `failure`
            self.failure = self.failure or failure

    def _take(self, told: Any) -> None:
        if told["name"] == "producer_send_success":
            _, number = origin_of(told["value"].encode())
            self.ledger.sent_count = max(self.ledger.sent_count, number + 1)
            self.ledger.ack(number, (told["partition"], told["offset"]))
        assert told["name"] != "producer_send_error", f"Java's producer: {told}"

    def finish(self) -> None:
        self._process.terminate()
        self._process.wait(PATIENCE_S)
        if self._told is not None:
            self._told.join(PATIENCE_S)
        if self.failure is not None:
            raise self.failure
        assert set(self.ledger.acked) == set(range(self.ledger.sent_count)), (
            f"Java's producer was not told of all: {self._error_path.read_text(errors='replace')[-2000:]}"
        )

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        if self._told is not None:
            self._told.join()
        if self._process.stdout is not None:
            self._process.stdout.close()
