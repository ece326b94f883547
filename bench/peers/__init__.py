"""The systems that Penstock is measured against and tested with, one module each.

A module here finds or fetches its peer, starts it on loopback in a folder of its own, and ends it. It knows nothing of what is
measured.
"""


class PeerMissing(Exception):
    """The peer can't be had on this machine. The message is one line that says what is missing; skip with it."""


class PeerFailed(Exception):
    """The peer is here but did not start or did not do as told. The message ends with the last lines of its log."""
