"""Batches that some topics change on the way in: what that may take of the broker's memory."""

from threading import Thread

import pytest
from tests.support.logs import NOW_MS

from penstock.broker.rewrite import Rewriter
from penstock.protocol.compression import Codec
from penstock.protocol.records import Record, encode_batch, recompress
from penstock.storage.batch_walk import LARGE_UNPACKING, UNPACKED_AT_ONCE_BYTES


def packed(value: bytes) -> bytearray:
    return bytearray(encode_batch([Record(0, NOW_MS, b"key", value)], codec=Codec.ZSTD))


@pytest.mark.parametrize(
    "rewriter",
    [
        Rewriter(log_append_time=False, codec=None, level=None, require_keys=True),
        Rewriter(log_append_time=False, codec=Codec.GZIP, level=1, require_keys=False),
    ],
)
def test_large_batches_are_rewritten_by_one_worker_at_a_time(rewriter: Rewriter) -> None:
    """A few KB unpack to as many MiB; a worker that waits for its turn holds none of them."""
    small, large = packed(b"value"), packed(bytes(UNPACKED_AT_ONCE_BYTES))
    order: list[str] = []

    def rewrite_large() -> None:
        rewriter(memoryview(large), NOW_MS)
        order.append("large")

    worker = Thread(target=rewrite_large)
    with LARGE_UNPACKING:
        worker.start()
        for _ in range(3):  # as long as the worker would take, and longer
            recompress(memoryview(large), Codec.GZIP, 1)
        rewriter(memoryview(small), NOW_MS)
        order.append("small")
    worker.join()
    assert order == ["small", "large"]
