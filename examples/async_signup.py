"""Asynchronous sign-up: the customer has an answer at once, mail and SMS follow in their own time.

    python examples/async_signup.py --bootstrap localhost:9092

The web service waits for one thing only: that the sign-up is kept safe. Mail and SMS are two groups, so each of them is given every
sign-up. More workers in a group would share the topic's partitions among them.
"""

import argparse
import json
import os
import uuid
from statistics import median

import trio

import penstock

SIGN_UP_COUNT = 20
MAIL_TAKES_S = 0.05
SMS_TAKES_S = 0.02


async def web_service(producer: penstock.Producer, topic: str) -> None:
    """Answer each customer as soon as the sign-up is acked."""
    waits_ms: list[float] = []
    for number in range(SIGN_UP_COUNT):
        begin = trio.current_time()
        customer = {
            "name": f"customer {number}",
            "mail": f"c{number}@example.com",
            "phone": f"+49 30 {number:04}",
        }
        await producer.send(topic, json.dumps(customer).encode())
        waits_ms.append((trio.current_time() - begin) * 1000)
    print(f"web   answered {SIGN_UP_COUNT} customers, half of them within {median(waits_ms):.1f} ms")


async def worker(bootstrap: str, topic: str, group: str, field: str, takes_s: float) -> None:
    """Tell each customer once, however long that takes."""
    told: set[str] = set()
    async with penstock.Consumer(bootstrap, topic, group=group, auto_offset_reset="earliest") as consumer:
        async for record in consumer:
            customer = json.loads(record.value or b"{}")
            await trio.sleep(takes_s)  # a mail server, a phone company
            told.add(customer[field])
            if len(told) == SIGN_UP_COUNT:
                break
    print(f"{group:<5} told {len(told)} customers")


async def main(bootstrap: str) -> None:
    """Run the three services until everybody is told."""
    topic = f"sign-ups-{uuid.uuid4().hex[:8]}"  # a new one for each run
    begin = trio.current_time()
    async with penstock.Producer(bootstrap) as producer:
        await producer.partition_count(topic)  # asking for a topic makes it
        async with trio.open_nursery() as nursery:
            nursery.start_soon(web_service, producer, topic)
            nursery.start_soon(worker, bootstrap, topic, "mail", "mail", MAIL_TAKES_S)
            nursery.start_soon(worker, bootstrap, topic, "sms", "phone", SMS_TAKES_S)
    print(f"all   done after {trio.current_time() - begin:.1f} s, and nobody had to wait for it")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Asynchronous sign-up.")
    bootstrap = os.environ.get("PENSTOCK_BOOTSTRAP", "localhost:9092")
    parser.add_argument("--bootstrap", default=bootstrap, help="the broker  [default: %(default)s]")
    trio.run(main, parser.parse_args().bootstrap)
