"""A group chat: everybody sees every message in the same order, and who joins late reads what was said before.

    python examples/group_chat.py --bootstrap localhost:9092

A room is one partition, which gives it one order. People read without a consumer group, so each of them is given everything.
"""

import argparse
import os
import uuid

import trio

import penstock

TALK = [
    ("Ada", "Who has the keys to the penstock?"),
    ("Ben", "Not me. Cleo had them yesterday."),
    ("Cleo", "I gave them to Ada."),
    ("Ada", "They are in my pocket. Sorry!"),
    ("Dora", "I have just read it all. Never mind, Ada."),
    ("Ben", "Hello, Dora!"),
]
DORA_JOINS_AFTER = 4


class Room:
    """Where they talk: a topic, new for each run."""

    def __init__(self, bootstrap: str, producer: penstock.Producer) -> None:
        self.topic = f"room-{uuid.uuid4().hex[:8]}"
        self.bootstrap = bootstrap
        self.producer = producer
        self.seen: dict[str, list[str]] = {}
        self.keys_are_found = trio.Event()

    async def say(self, name: str, text: str) -> None:
        """Send a message to everybody."""
        await self.producer.send(self.topic, f"{name}: {text}".encode(), partition=0)

    async def join(self, name: str) -> None:
        """Read from the beginning, and speak in one's turn."""
        seen = self.seen[name] = []
        async with penstock.Consumer(self.bootstrap, self.topic, auto_offset_reset="earliest") as consumer:
            async for record in consumer:
                seen.append((record.value or b"").decode())
                if len(seen) == DORA_JOINS_AFTER:
                    self.keys_are_found.set()
                if len(seen) == len(TALK):
                    break
                if TALK[len(seen)][0] == name:
                    await self.say(*TALK[len(seen)])


async def main(bootstrap: str) -> None:
    """Let the four talk, and compare what they have seen."""
    async with penstock.Producer(bootstrap) as producer, trio.open_nursery() as nursery:
        room = Room(bootstrap, producer)
        await room.say(*TALK[0])
        for name in ("Ada", "Ben", "Cleo"):
            nursery.start_soon(room.join, name)
        await room.keys_are_found.wait()
        async with penstock.Consumer(bootstrap) as late:
            history = [(record.value or b"").decode() async for record in late.read(room.topic)]
        print("Dora joins, and reads what was said:", *history, sep="\n  ")
        nursery.start_soon(room.join, "Dora")
    alike = all(lines == [f"{name}: {text}" for name, text in TALK] for lines in room.seen.values())
    print(
        f"{len(room.seen)} people saw {len(TALK)} messages, {'all' if alike else 'not all'} in the same order"
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="A group chat.")
    bootstrap = os.environ.get("PENSTOCK_BOOTSTRAP", "localhost:9092")
    parser.add_argument("--bootstrap", default=bootstrap, help="the broker  [default: %(default)s]")
    trio.run(main, parser.parse_args().bootstrap)
