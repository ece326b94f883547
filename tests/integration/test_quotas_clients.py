"""Quotas as people set them, with Apache Kafka's own tool, and as librdkafka meets them."""

import time
from typing import Any

from bench.peers.kafka import Tool
from confluent_kafka import Producer
from tests.support.clients import java, librdkafka
from tests.support.processes import RunningServer
from tests.support.topics import create_topic, fresh_name
from tests.support.wire import Connection

RATE = 200_000
SECONDS = 2.0


def test_offender_of_a_quota_set_by_kafka_configs_is_not_held(
    server: RunningServer, connection: Connection
) -> None:
    topic, client_id = create_topic(connection, "quotas"), fresh_name("offender")
    entity = ("--entity-type", "clients", "--entity-name", client_id)
    change = ("--alter", "--add-config", f"producer_byte_rate={RATE}")
    java.run(Tool.CONFIGS, "--bootstrap-server", server.bootstrap, *change, *entity)
    wanted = {"entity_type": "client-id", "match_type": 0, "match": client_id}
    (entry,) = connection.request("describe_client_quotas", 1, components=[wanted], strict=True).entries
    assert [(each.key, each.value) for each in entry.values] == [("producer_byte_rate", RATE)]

    throttled: list[float] = []

    def note(event: Any) -> None:
        throttled.append(event.throttle_time)

    acks = librdkafka.Acks()
    producer = Producer(
        {
            "bootstrap.servers": server.bootstrap,
            "client.id": client_id,
            "linger.ms": 5,
            "batch.size": 20_000,
            "throttle_cb": note,
        }
    )
    started = time.monotonic()
    while time.monotonic() - started < SECONDS:
        if len(producer) < 100:
            producer.produce(topic, bytes(2000), on_delivery=acks)
        producer.poll(0 if len(producer) < 100 else 0.05)
    most = RATE * (SECONDS + 1) / 2000
    assert 0.5 * most <= len(acks.offsets) <= 1.05 * most + 20
    assert throttled, "it is told"
    assert producer.flush(10) == 0
    assert not acks.errors
    assert server.log_text().count(f"client-id '{client_id}': over producer_byte_rate={RATE}") == 1
