"""A burst of purchases: all of them are taken in a moment, and worked off at the pace that the till can keep.

    python examples/burst_purchases.py --bootstrap localhost:9092

The queue stands between the rush and the till: the shop answers as fast as records are acked, the till takes them one by one.
"""

import argparse
import os
import uuid

import trio

import penstock

PURCHASE_COUNT = 600
PURCHASES_PER_SECOND = 200
REPORT_EVERY = 200


async def rush(producer: penstock.Producer, topic: str) -> None:
    """Everybody buys at once."""
    begin = trio.current_time()
    await producer.send_many(topic, (f"purchase {number}".encode() for number in range(PURCHASE_COUNT)))
    print(f"shop  took {PURCHASE_COUNT} purchases in {trio.current_time() - begin:.2f} s")


async def till(bootstrap: str, topic: str) -> list[bytes]:
    """Work off purchases at a fixed pace; returns them in the order in which they were dealt with."""
    done: list[bytes] = []
    paced = penstock.Consumer(
        bootstrap,
        topic,
        group="till",
        auto_offset_reset="earliest",
        max_records_per_second=PURCHASES_PER_SECOND,
        burst_records=1,
    )
    async with paced as consumer:
        async for record in consumer:
            done.append(record.value or b"")
            if len(done) % REPORT_EVERY == 0:
                print(f"till  {len(done)} done, {PURCHASE_COUNT - len(done)} wait")
            if len(done) == PURCHASE_COUNT:
                break
    return done


async def main(bootstrap: str) -> None:
    """Let the rush come, then work it off."""
    topic = f"purchases-{uuid.uuid4().hex[:8]}"  # a new one for each run
    async with penstock.Producer(bootstrap) as producer:
        await rush(producer, topic)
    begin = trio.current_time()
    done = await till(bootstrap, topic)
    pace = len(done) / (trio.current_time() - begin)
    in_order = done == [f"purchase {number}".encode() for number in range(PURCHASE_COUNT)]
    print(
        f"till  worked off {len(done)} purchases at {pace:.0f} a second, {'in' if in_order else 'out of'} order"
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="A burst of purchases.")
    bootstrap = os.environ.get("PENSTOCK_BOOTSTRAP", "localhost:9092")
    parser.add_argument("--bootstrap", default=bootstrap, help="the broker  [default: %(default)s]")
    trio.run(main, parser.parse_args().bootstrap)
