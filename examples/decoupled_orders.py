"""Decoupled services: orders are taken while stock is down, and stock catches up without losing one.

    python examples/decoupled_orders.py --bootstrap localhost:9092

The order service does not know the stock service, nor whether it runs. The stock service commits an order once it is dealt with; when it
comes back, it goes on behind the last commit.
"""

import argparse
import os
import uuid

import trio

import penstock

ORDER_COUNT = 30
STOCK_FAILS_AFTER = 10
BETWEEN_ORDERS_S = 0.03


async def order_service(producer: penstock.Producer, topic: str, taken: list[str]) -> None:
    """Take one order after the other."""
    for number in range(ORDER_COUNT):
        order = f"order {number}"
        await producer.send(topic, order.encode())
        taken.append(order)
        await trio.sleep(BETWEEN_ORDERS_S)


async def stock_service(bootstrap: str, topic: str, delivered: list[str], *, until: int) -> None:
    """Deliver orders until there are as many as that."""
    async with penstock.Consumer(
        bootstrap, topic, group="stock", auto_offset_reset="earliest", auto_commit=False
    ) as consumer:
        async for record in consumer:
            delivered.append((record.value or b"").decode())
            await consumer.commit()  # this one is dealt with
            if len(delivered) == until:
                return


async def main(bootstrap: str) -> None:
    """Let stock fail in the middle of it, and come back."""
    topic = f"orders-{uuid.uuid4().hex[:8]}"  # a new one for each run
    taken: list[str] = []
    delivered: list[str] = []
    async with penstock.Producer(bootstrap) as producer:
        await producer.partition_count(topic)  # asking for a topic makes it
        async with trio.open_nursery() as nursery:
            nursery.start_soon(order_service, producer, topic, taken)
            await stock_service(bootstrap, topic, delivered, until=STOCK_FAILS_AFTER)
            print(f"stock  goes down, {len(delivered)} orders are delivered")
    print(f"orders {len(taken)} are taken; nobody noticed that stock is down")
    await stock_service(bootstrap, topic, delivered, until=ORDER_COUNT)
    lost = len(set(taken) - set(delivered))
    twice = len(delivered) - len(set(delivered))
    print(f"stock  has caught up: {len(delivered)} orders delivered, {lost} lost, {twice} twice")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Decoupled services.")
    bootstrap = os.environ.get("PENSTOCK_BOOTSTRAP", "localhost:9092")
    parser.add_argument("--bootstrap", default=bootstrap, help="the broker  [default: %(default)s]")
    trio.run(main, parser.parse_args().bootstrap)
