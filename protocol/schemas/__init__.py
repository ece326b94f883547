"""One table for each API: the fields of all its versions, in the order of the wire. Written by `make generate`.

A table maps each structure to its rows; the first structure is the message itself. A row is

    (name, type, versions, default[, versions in which null is allowed[, tag]])

with versions as Kafka writes them (`4+`, `4-14`, `3`, "" for none) and types as well (`int32`, `[]string`, `FetchTopic`).
The default () is an empty array or a structure of its own defaults, and 0 is also the zero UUID.
"""

Row = (
    tuple[str, str, str, object] | tuple[str, str, str, object, str] | tuple[str, str, str, object, str, int]
)
Structs = dict[str, tuple[Row, ...]]
