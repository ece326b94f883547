"""Writers: raw requests, librdkafka and Penstock's own producer, with and without idempotence."""

import random
from collections.abc import Sequence
from typing import Any

import trio
from confluent_kafka import KafkaError, Message, Producer
from tests.support.batches import encode_batch
from tests.support.clients import librdkafka
from tests.support.errors import ErrorCode
from tests.support.load.actors import PAUSE_S, Actor
from tests.support.load.ledger import PartitionLedger, key_of, value_of
from tests.support.topics import init_producer_id, produce
from tests.support.wire import Connection

import penstock

PATIENCE_S = 120.0
ON_THE_WAY_MAX = 200


class Writer(Actor):
    """Writes to its partitions in turn."""

    def __init__(
        self, bootstrap: str, name: str, ledgers: Sequence[PartitionLedger], *, is_idempotent: bool
    ) -> None:
        super().__init__(bootstrap, name)
        self.ledgers = list(ledgers)
        self.is_idempotent = is_idempotent

    @property
    def sent_count(self) -> int:
        """Records handed to it so far."""
        return sum(ledger.sent_counts.get(self.name, 0) for ledger in self.ledgers)

    def finish(self) -> None:
        """Wait for the acks of all that was sent. After `stop`."""


class RawWriter(Writer):
    """One batch at a time by raw requests; what was not acked is sent again as it was, like every client does.

    `may_lose`: when the broker lost acked records, which it may (write.caching=true and a power cut), it goes on with a new producer id.
    """

    def __init__(
        self,
        bootstrap: str,
        name: str,
        ledgers: Sequence[PartitionLedger],
        *,
        is_idempotent: bool,
        seed: int = 0,
        may_lose: bool = False,
        acks: int = -1,
    ) -> None:
        super().__init__(bootstrap, name, ledgers, is_idempotent=is_idempotent)
        self._random = random.Random(seed)
        self._may_lose = may_lose
        self._acks = acks
        self._identity: tuple[int, int] | None = None
        self._sequences = [0] * len(ledgers)
        self._turn = 0
        self._pending: list[bytes] = []

    def work(self, connection: Connection) -> None:
        while not self.stopping.is_set():
            if self.is_idempotent and self._identity is None:
                self._identity = init_producer_id(connection)
                self._sequences = [0] * len(self.ledgers)
            ledger = self.ledgers[self._turn]
            if not self._pending:
                count = self._random.choice((1, 1, 2, 5, 20)) if not ledger.may_compact else 1
                self._pending = [value_of(self.name, ledger.next_number(self.name)) for _ in range(count)]
            records = self._batch(key_of(self._pending[0]) if ledger.may_compact else None)
            answer = produce(connection, ledger.topic, records, partition=ledger.index, acks=self._acks)
            self._take(ledger, answer)
            self.stopping.wait(self._random.choice((0, 0, 0.002, 0.005)))

    def _batch(self, key: bytes | None) -> bytes:
        if self._identity is None:
            return encode_batch(self._pending, key=key)
        identity, epoch = self._identity
        sequence = self._sequences[self._turn]
        return encode_batch(
            self._pending, key=key, producer_id=identity, producer_epoch=epoch, base_sequence=sequence
        )

    def _take(self, ledger: PartitionLedger, answer: Any) -> None:
        if self._may_lose and answer.error_code in (
            ErrorCode.out_of_order_sequence_number,
            ErrorCode.unknown_producer_id,
        ):
            self._identity = None
            return
        if self.again(answer.error_code):
            return
        for place, value in enumerate(self._pending):
            ledger.ack(answer.base_offset + place, value)
        self._sequences[self._turn] += len(self._pending)
        self.done_count += len(self._pending)
        self._pending = []
        self._turn = (self._turn + 1) % len(self.ledgers)


class LibrdkafkaWriter(Writer):
    """librdkafka, which sends again by itself until the broker is back."""

    def __init__(
        self, bootstrap: str, name: str, ledgers: Sequence[PartitionLedger], *, is_idempotent: bool
    ) -> None:
        super().__init__(bootstrap, name, ledgers, is_idempotent=is_idempotent)
        self._by_place = {(each.topic, each.index): each for each in ledgers}
        self._error: KafkaError | None = None
        self._sent_count = 0
        self.done_count: int = 0
        self._producer: Producer = librdkafka.make_producer(
            bootstrap,
            enable_idempotence=is_idempotent,
            batch_num_messages=20,
            linger_ms=1,
            message_timeout_ms=int(PATIENCE_S * 1000),
            message_send_max_retries=1_000_000,
            retry_backoff_ms=20,
            retry_backoff_max_ms=100,
            reconnect_backoff_ms=20,
            reconnect_backoff_max_ms=50,
            log_level=0,
        )

    def run_once(self) -> None:
        while not self.stopping.is_set():
            for ledger in self.ledgers:
                if self._sent_count - self.done_count < ON_THE_WAY_MAX:
                    value = value_of(self.name, ledger.next_number(self.name))
                    self._producer.produce(
                        ledger.topic, value, partition=ledger.index, on_delivery=self._told
                    )
                    self._sent_count += 1
            self._producer.poll(PAUSE_S / 5)
            assert self._error is None, f"{self.name}: {self._error}"

    def _told(self, error: KafkaError | None, message: Message) -> None:
        if error is not None:
            self._error = self._error or error
            return
        topic, index, offset = message.topic(), message.partition(), message.offset()
        assert topic is not None
        assert index is not None
        assert offset is not None
        self._by_place[topic, index].ack(offset, librdkafka.value_of(message))
        self.done_count += 1

    def finish(self) -> None:
        assert self._producer.flush(PATIENCE_S) == 0, f"{self.name}: no ack for the rest"
        assert self._error is None, f"{self.name}: {self._error}"


class PenstockWriter(Writer):
    """Penstock's own producer. Runs until the end: `stop` waits for all acks."""

    def __init__(self, bootstrap: str, name: str, ledgers: Sequence[PartitionLedger]) -> None:
        super().__init__(bootstrap, name, ledgers, is_idempotent=True)

    def run_once(self) -> None:
        trio.run(self._produce)

    async def _produce(self) -> None:
        options: dict[str, Any] = {"delivery_timeout_ms": PATIENCE_S * 1000}
        async with penstock.Producer(self.bootstrap, **options) as producer, trio.open_nursery() as nursery:
            for ledger in self.ledgers:
                nursery.start_soon(self._write, producer, ledger)

    async def _write(self, producer: penstock.Producer, ledger: PartitionLedger) -> None:
        while not self.stopping.is_set():
            values = [value_of(self.name, ledger.next_number(self.name)) for _ in range(5)]
            deliveries = [
                await producer.enqueue(ledger.topic, value, partition=ledger.index) for value in values
            ]
            for value, delivery in zip(values, deliveries, strict=True):
                told = await delivery.wait()
                ledger.ack(told.offset, value)
            self.done_count += len(values)
            await trio.sleep(PAUSE_S)
