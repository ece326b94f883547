"""Benches: Penstock against a bare loop, against Apache Kafka, and its own durability settings. See README.md."""
