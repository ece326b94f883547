"""Topics as files: exports that neither lose nor repeat a record, and the way back.

Knows no command line, no group protocol and no connection: records come in as the consumer's batches, and go out as files through the port.
"""
