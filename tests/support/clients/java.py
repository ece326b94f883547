"""Apache Kafka's own tools, each a JVM of its own: about a second and a half of a core, so ask for much in one call."""

from collections.abc import Sequence

from bench.peers.kafka import PeerMissing, Tool, run_tool
from tests.support.clients import LIMIT_S
from tests.support.requirements import need


def run(tool: Tool, *arguments: str, stdin: bytes = b"", check: bool = True) -> bytes:
    """Run a tool to its end; returns its stdout. Skips where there is no Java or no jars."""
    try:
        return run_tool(tool, *arguments, stdin=stdin, timeout_s=LIMIT_S, check=check).stdout
    except PeerMissing as missing:
        need(False, str(missing))
        raise


def produce(bootstrap: str, topic: str, values: Sequence[bytes], codec: str) -> None:
    """Produce to a topic of one partition. The tool takes CR for the end of a line: values must not have any."""
    assert not any(b"\r" in value for value in values)
    to = ("--bootstrap-server", bootstrap, "--topic", topic, "--compression-codec", codec)
    run(Tool.CONSOLE_PRODUCER, *to, stdin=b"\n".join(values) + b"\n")


def consume(bootstrap: str, topic: str, count: int, partition: int = 0) -> list[bytes]:
    """The first `count` values of a partition; values must not have LF."""
    place = ("--bootstrap-server", bootstrap, "--topic", topic, "--partition", str(partition))
    until = ("--offset", "earliest", "--max-messages", str(count), "--timeout-ms", "20000")
    return run(Tool.CONSOLE_CONSUMER, *place, *until).split(b"\n")[:-1]
