"""The five codecs of Kafka's record batches.

Owns the numbers by which a batch names its codec. Does not know record batches.
"""

import enum


class Codec(enum.IntEnum):
    """How a batch's records are compressed: the low three bits of its attributes."""

    NONE = 0
    GZIP = 1
    SNAPPY = 2
    LZ4 = 3
    ZSTD = 4
