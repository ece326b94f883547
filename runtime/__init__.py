"""The ports to the outside, as protocols, and the real ones behind them.

Owns every call to the clock, the random source, sockets, files, threads and the metadata store. Knows nothing of Kafka.
The protocols stand in `clock`, `files`, `network`, `threads` and `metadata`; `environment` bundles them; the real ones are
in the modules whose names say what they use (`posix_files`, `sockets`, `worker_threads`, `sqlite_metadata`).
"""
