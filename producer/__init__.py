"""The producer library. A record's way: `producer` → `accumulator` (batches, pure) → `sender` and `broker_sender` (tasks) → the broker."""
