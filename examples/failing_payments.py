"""Payments that fail: the bank is out of reach now and then, and one card is no good. Nobody waits for that, and no payment is lost.

    python examples/failing_payments.py --bootstrap localhost:9092

What fails goes through retry topics, each with a delay of its own, and to a dead letter topic in the end, with the reason in its headers.
"""

import argparse
import os
import uuid

import trio

import penstock

PAYMENT_COUNT = 20
STOLEN = b"payment 7"


class CardRefused(Exception):
    """No use in trying again."""


async def charge(payment: bytes | None, try_number: int) -> None:
    """Ask the bank, which is out of reach for each fourth payment at first."""
    if payment == STOLEN:
        raise CardRefused("this card was stolen")
    if payment is not None and int(payment.split()[1]) % 4 == 0 and try_number == 1:
        raise ConnectionError("the bank does not answer")


async def work_off(bootstrap: str, topic: str) -> dict[int, int]:
    """Deal with all payments; returns how many were paid at which try."""
    paid: dict[int, int] = {}
    bank = penstock.Consumer(bootstrap, group="bank", auto_offset_reset="earliest")
    async with (
        bank as consumer,
        penstock.Producer(bootstrap) as producer,
        penstock.Redrive(
            consumer, producer, topic, delays_s=(0.5, 5, 60), dead_at_once=(CardRefused,)
        ) as redrive,
    ):
        async for attempt in redrive:
            async with attempt as record:
                await charge(record.value, attempt.number)
                paid[attempt.number] = paid.get(attempt.number, 0) + 1
            counts = redrive.statistics()
            if counts.done_count + counts.dead_count == PAYMENT_COUNT:
                break
    return paid


async def main(bootstrap: str) -> None:
    """Take payments, work them off, and look at what is left."""
    topic = f"payments-{uuid.uuid4().hex[:8]}"  # a new one for each run
    async with penstock.Producer(bootstrap) as producer:
        await producer.send_many(topic, (b"payment %d" % number for number in range(PAYMENT_COUNT)))
    for try_number, count in sorted((await work_off(bootstrap, topic)).items()):
        print(f"bank  {count} of {PAYMENT_COUNT} payments are through at try {try_number}")
    async with penstock.Consumer(bootstrap) as consumer:
        async for record in consumer.read(f"{topic}.dlq"):
            why = dict(record.headers)["__penstock.errors.exception.message"] or b""
            print(f"desk  {(record.value or b'').decode()} is for a person to look at: {why.decode()}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Payments that fail.")
    bootstrap = os.environ.get("PENSTOCK_BOOTSTRAP", "localhost:9092")
    parser.add_argument("--bootstrap", default=bootstrap, help="the broker  [default: %(default)s]")
    trio.run(main, parser.parse_args().bootstrap)
