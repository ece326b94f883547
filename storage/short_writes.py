"""Going on after a write that took a part of its data.

Owns in which order the rest comes to the disk. Knows neither batches nor what a failure means to a log.

Invariant: a sector that a write has part of is durable, with all that comes into it, before anything is written behind it. So a power cut leaves
each sector but the last one whole or zeros, and `damage` can tell what was not written from what is damaged.
"""

from penstock.runtime.files import DiskError, File, StorageError, write_all
from penstock.storage.damage import SECTOR_SIZE_BYTES


def complete_write(file: File, data: memoryview, position: int, written: int) -> None:
    """Write what is left of `data`, which begins at `position`, behind the first `written` bytes.

    Raises what `pwrite` raises; DiskError, also for want of room, where a sync fails, which is final. A part may be written then.

    A file knows short writes from a disk that is about to be full, and there the rest fails at once: so this hardly ever waits for the disk.
    """
    while written < len(data):
        sector_end = written + -(position + written) % SECTOR_SIZE_BYTES
        if sector_end > written:
            write_all(file, data[written:sector_end], position + written)
        written = sector_end
        try:
            file.datasync()  # also where the data ends in this sector: what is appended next comes behind it
        except StorageError as error:
            raise DiskError(f"a sync within a write failed: {error}", path=file.path) from error
        if written < len(data):
            step = file.pwrite(data[written:], position + written)
            if step == 0:
                raise DiskError("wrote nothing", path=file.path)
            written += step


__all__ = ["complete_write"]
