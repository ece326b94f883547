"""Clusters of real processes: etcd and some brokers, on loopback or with a network of their own, and what may befall them.

`hosts` says where a process runs and whom it reaches; `process` is one process with its log; `etcd` and `brokers` are the two kinds; `cluster` is
all of them together, and what Metadata tells of them. Everything ends with the `with` block that started it.
"""
