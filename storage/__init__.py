"""The log of one partition on disk. Synchronous; touches files only through `penstock.runtime.files`."""
