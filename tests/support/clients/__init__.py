"""Foreign clients behind one narrow face: `produce(bootstrap, topic, values, codec)` and `consume(bootstrap, topic, count)`.

Each module keeps its library's badly typed parts to itself. All of them read a partition given by hand from its beginning, without a
group, and none may change a byte of a value.
"""

CODECS = ("none", "gzip", "snappy", "lz4", "zstd")
LIMIT_S = 60.0
"""How long one call to a foreign client may take."""
