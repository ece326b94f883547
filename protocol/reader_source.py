"""Writes the Python source of a reader for one version of one message.

Owns how a message is read: structures are unrolled into one flat function with loops for arrays, since a call for each
field would cost more than the reading. Knows nothing of when it is compiled or what is done with the exceptions: the
source raises DecodeError itself for what it checks, and lets struct.error, IndexError (the end of the buffer) and
UnicodeDecodeError through, which mean the same.

Invariants of the source: `p` never goes back; an array's count is checked against the bytes that remain divided by the
least size of an element, before anything is allocated; `left` counts elements and tagged fields of the whole message
down; no recursion.
"""

from collections.abc import Iterable

from penstock.protocol.schema import FIXED_SIZES, Field, Schema


def reader_source(schema: Schema, *, ends_with_message: bool = True) -> str:
    """The source of `read(b: memoryview, left: int) -> Message`.

    With `ends_with_message`, bytes behind the message are an error, else they are left alone.
    """
    return _Reader(schema).source(ends_with_message)


class _Reader:
    """One run of writing. Values live in variables of their own: v1, v2 and so on."""

    def __init__(self, schema: Schema) -> None:
        self.schema = schema
        self.lines: list[str] = []
        self.depth = 1
        self.variable_count = 0
        self.group: list[tuple[str, str]] = []  # (variable, format) of fixed-size values not yet read

    def source(self, ends_with_message: bool) -> str:
        self.lines = ["def read(b, left):", "    end = len(b)", "    p = 0"]
        message = self.struct(self.schema.root)
        if ends_with_message:
            self.add("if p != end: raise behind(end - p)")
        self.add(f"return {message}")
        return "\n".join(self.lines) + "\n"

    def add(self, *lines: str) -> None:
        self.lines += ["    " * self.depth + line for line in lines]

    def new(self) -> str:
        self.variable_count += 1
        return f"v{self.variable_count}"

    def flush(self) -> None:
        """Read the fixed-size values that were gathered with one unpack."""
        if not self.group:
            return
        names = ", ".join(name for name, _ in self.group)
        layout = "".join(layout for _, layout in self.group)
        size_bytes = sum(_SIZES[layout] for _, layout in self.group)
        self.add(f"{names}, = U['>{layout}'](b, p)", f"p += {size_bytes}")
        self.group = []

    def struct(self, name: str) -> str:
        """Read a structure; returns the variable that holds its Message."""
        values = {field.name: self.field(field) for field in self.schema.plain(name)}
        self.flush()
        if self.schema.flexible:
            values |= self.tagged_fields(self.schema.tagged(name))
        message = self.new()
        values |= {field.name: self.default(field) for field in self.schema.absent[name]}
        self.add(f"{message} = new(Message)", f"{message}.__dict__ = {_dict(values.items())}")
        return message

    def field(self, field: Field) -> str:
        """Read a field; returns the expression of its value."""
        if field.is_array:
            return self.array(field)
        if field.type in FIXED_SIZES:
            value = self.new()
            self.group.append((value, FIXED_SIZES[field.type][1]))
            return value
        if not field.is_struct:
            return self.sized(field)
        if not field.is_nullable:
            return self.struct(field.type)
        return self.nullable_struct(field)

    def nullable_struct(self, field: Field) -> str:
        value, marker = self.new(), self.new()
        self.group.append((marker, "b"))
        self.flush()
        self.add(f"{value} = None", f"if {marker} >= 0:")
        self.depth += 1
        self.add(f"{value} = {self.struct(field.type)}")
        self.depth -= 1
        return value

    def length(self, layout: str) -> str:
        """Read a length or count; returns the variable that holds it, -1 for null."""
        length = self.new()
        if self.schema.flexible:
            self.flush()
            self.varint(length)
            self.add(f"{length} -= 1")
        else:
            self.group.append((length, layout))
            self.flush()
        return length

    def varint(self, name: str) -> None:
        self.add(f"{name} = b[p]", "p += 1", f"if {name} > 127: {name}, p = varint(b, p - 1)")

    def sized(self, field: Field) -> str:
        """Read a string, bytes or records."""
        length = self.length("h" if field.type == "string" else "i")
        value, after = self.new(), self.new()
        expression = {
            "string": f"str(b[p:{after}], 'utf-8')",
            "bytes": f"bytes(b[p:{after}])",
            "records": f"b[p:{after}]",
        }[field.type]
        if field.is_nullable:
            self.add(f"if {length} == -1: {value} = None", "else:")
            self.depth += 1
        too_long = f" or {length} > STRING_MAX" if field.type == "string" and self.schema.flexible else ""
        self.add(
            f"{after} = p + {length}",
            f"if {length} < 0 or {after} > end{too_long}: raise bad_length({field.name!r}, {length}, end - p)",
            f"{value} = {expression}",
            f"p = {after}",
        )
        if field.is_nullable:
            self.depth -= 1
        return value

    def array(self, field: Field) -> str:
        count = self.length("i")
        value = self.new()
        if field.is_nullable:
            self.add(f"if {count} == -1: {value} = None", "else:")
            self.depth += 1
        least_size_bytes = self.schema.least_size_bytes(field)
        self.add(
            f"if {count} < 0 or {count} > (end - p) // {least_size_bytes}:"
            f" raise bad_count({field.name!r}, {count}, end - p)",
            f"left -= {count}",
            "if left < 0: raise too_many()",
        )
        self.elements(field, value, count)
        if field.is_nullable:
            self.depth -= 1
        return value

    def elements(self, field: Field, value: str, count: str) -> None:
        """Read the elements of an array into a list."""
        size_bytes, layout = FIXED_SIZES.get(field.type, (0, ""))
        if len(layout) == 1:
            self.add(f"{value} = list(unpack(f'>{{{count}}}{layout}', b, p))", f"p += {count} * {size_bytes}")
            return
        self.add(f"{value} = []", f"for _ in range({count}):")
        self.depth += 1
        element = Field(field.name, field.type, False, False, None, None)
        expression = self.field(element)
        self.flush()
        self.add(f"{value}.append({expression})")
        self.depth -= 1

    def tagged_fields(self, fields: list[Field]) -> dict[str, str]:
        """Read the tagged fields of a structure, skipping what is not known; returns their variables."""
        values = {field.name: self.new() for field in fields}
        count, tag, size_bytes, after = self.new(), self.new(), self.new(), self.new()
        for field in fields:
            self.add(f"{values[field.name]} = {self.default(field)}")
        self.varint(count)
        self.add(f"if {count}:")
        self.depth += 1
        self.add(
            f"if {count} > (end - p) // 2: raise bad_count('tagged fields', {count}, end - p)",
            f"left -= {count}",
            "if left < 0: raise too_many()",
            f"for _ in range({count}):",
        )
        self.depth += 1
        self.varint(tag)
        self.varint(size_bytes)
        self.add(f"{after} = p + {size_bytes}")
        self.add(f"if {after} > end: raise bad_length('a tagged field', {size_bytes}, end - p)")
        for field in fields:
            self.add(f"if {tag} == {field.tag}:")
            self.depth += 1
            expression = self.field(field)
            self.flush()
            self.add(
                f"{values[field.name]} = {expression}",
                f"if p != {after}: raise bad_length({field.name!r}, {size_bytes}, end - p)",
            )
            self.depth -= 1
        self.add(f"p = {after}")
        self.depth -= 2
        return values

    def default(self, field: Field) -> str:
        """The expression of a field's default, made anew each time where it is mutable."""
        if field.default != ():
            return repr(field.default)
        if field.is_array:
            return "[]"
        fields = self.schema.fields[field.type] + self.schema.absent[field.type]
        return f"make({_dict((f.name, self.default(f)) for f in fields)})"


_SIZES = {layout: size_bytes for size_bytes, layout in FIXED_SIZES.values()}


def _dict(items: Iterable[tuple[str, str]]) -> str:
    return "{" + ", ".join(f"{name!r}: {value}" for name, value in items) + "}"
