"""How people write so many bytes a second."""

import re

_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "KI": 2**10, "MI": 2**20, "GI": 2**30}


def byte_rate(text: str) -> int | None:
    """Bytes a second, at least 1: a number, or one with a unit, as 50MB, 1.5GB/s or 64MiB. None: it is none."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMG]I?)?B?(?:/S)?", text.strip().upper())
    rate = int(float(found[1]) * _UNITS[found[2] or ""]) if found else 0
    return rate if rate >= 1 else None
