"""Penstock: a persistent, partitioned message queue that speaks the Kafka wire protocol.

This module loads nothing by itself: `import penstock.protocol` stays light, and public names are resolved on first
use (PEP 562).
"""

__version__ = "0.1.0"
