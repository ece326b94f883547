"""Quotas outlive restarts, hold on every broker, and leave replication and Penstock's own clients in order."""

import pytest
import trio
from tests.support.machine_cluster import server_cluster
from tests.support.memory_server import memory_server
from trio.testing import MockClock

from penstock.client.admin import Admin
from penstock.client.admin_quotas import QuotaEntity
from penstock.client.admin_values import NewTopic
from penstock.consumer.consumer import Consumer
from penstock.producer.producer import OutgoingRecord, Producer

RATE = 50_000
COUNT = 300
RECORDS = [OutgoingRecord(b"%d" % n + bytes(1000)) for n in range(COUNT)]
EACH_CLIENT = QuotaEntity(client_id="")


async def set_quotas(admin: Admin, **quotas: float | None) -> None:
    (outcome,) = (await admin.alter_quotas({EACH_CLIENT: quotas})).values()
    assert outcome is None


async def test_penstocks_clients_lose_or_repeat_under_quotas_that_outlive_a_restart(
    autojump_clock: MockClock,
) -> None:
    async with memory_server() as server, Admin(server.bootstrap, server.client("admin")) as admin:
        await admin.create_topics([NewTopic(name="t", partition_count=2)])
        await set_quotas(admin, producer_byte_rate=RATE, consumer_byte_rate=RATE)
    async with memory_server(server=server):
        started = trio.current_time()
        environment = server.client("producer")
        async with Producer(server.bootstrap, environment=environment, batch_size_bytes=5000) as producer:
            await producer.send_many("t", RECORDS)
        assert trio.current_time() - started == pytest.approx(COUNT * 1000 / RATE - 1, rel=0.2)
        started = trio.current_time()
        got: list[bytes | None] = []
        reader = Consumer(
            server.bootstrap, "t", environment=server.client("consumer"), auto_offset_reset="earliest"
        )
        async with reader as consumer:
            while len(got) < COUNT:
                got.append((await anext(consumer)).value)
        assert sorted(got, key=repr) == sorted((record.value for record in RECORDS), key=repr)
        assert trio.current_time() - started == pytest.approx(COUNT * 1000 / RATE - 1, rel=0.2)


async def test_quota_holds_for_followers_or_not_on_another_broker(autojump_clock: MockClock) -> None:
    async with server_cluster(1, 2) as cluster:
        await cluster.create("orders", (2, 1))
        environment = cluster.client("client")
        async with Admin(cluster.bootstrap, environment) as admin:
            await set_quotas(admin, consumer_byte_rate=1)
        async with Producer(cluster.bootstrap, environment=environment, acks="all") as producer:
            started = trio.current_time()
            await producer.send_many("orders", RECORDS)
            assert trio.current_time() - started < 1, "followers are not held"
            async with Admin(cluster.bootstrap, environment) as admin:
                await set_quotas(admin, consumer_byte_rate=None, producer_byte_rate=RATE)
            await trio.sleep(1)
            started = trio.current_time()
            await producer.send_many(
                "orders",
                RECORDS,
            )
            await producer.send_many("orders", RECORDS[:1])
            assert trio.current_time() - started > 4
