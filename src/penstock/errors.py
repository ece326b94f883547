"""The root of Penstock's exceptions."""


class PenstockError(Exception):
    """Every exception that Penstock raises on purpose is one of these."""
