"""Writes the Python source of a writer for one version of one message.

Owns how a message is put into bytes: fields that this version has, defaults for those that the message lacks, tagged
fields only where they differ from their default. Structures are unrolled into one flat function, as in `reader_source`.
The source raises TypeError for a name that no version knows and for null where it can't be sent, ValueError for a string
or UUID of the wrong size, and lets struct.error through for an integer out of range.
"""

from penstock.protocol.schema import FIXED_SIZES, Field, Schema


def writer_source(schema: Schema) -> tuple[str, dict[str, object]]:
    """The source of `write(m: Message) -> bytes`, and the constants that it names."""
    writer = _Writer(schema)
    return writer.source(), writer.constants


class _Writer:
    """One run of writing."""

    def __init__(self, schema: Schema) -> None:
        self.schema = schema
        self.lines: list[str] = []
        self.depth = 1
        self.variable_count = 0
        self.constants: dict[str, object] = {}
        self.group: list[tuple[str, str]] = []  # (expression, format) of fixed-size values not yet written
        self.parts = "out"  # the list that is written to; tagged fields have lists of their own

    def source(self) -> str:
        self.lines = ["def write(m):", "    out = []"]
        self.struct(self.schema.root, "m")
        self.flush()
        self.add("return b''.join(out)")
        return "\n".join(self.lines) + "\n"

    def add(self, *lines: str) -> None:
        self.lines += ["    " * self.depth + line for line in lines]

    def new(self) -> str:
        self.variable_count += 1
        return f"v{self.variable_count}"

    def flush(self) -> None:
        """Write the fixed-size values that were gathered with one pack."""
        if not self.group:
            return
        values = ", ".join(expression for expression, _ in self.group if expression)
        layout = "".join(layout for _, layout in self.group)
        self.add(f"{self.parts}.append(P['>{layout}']({values}))")
        self.group = []

    def struct(self, name: str, message: str) -> None:
        """Write the structure in the variable `message`."""
        known, fields, get = f"K_{name}", self.new(), self.new()
        self.constants[known] = self.schema.known(name)
        self.add(
            f"{fields} = {message}.__dict__",
            f"if not {fields}.keys() <= {known}: raise unknown({name!r}, {fields}.keys() - {known})",
            f"{get} = {fields}.get",
        )
        for field in self.schema.plain(name):
            self.field(field, f"{get}({field.name!r}, {_default(field)})")
        if self.schema.flexible:
            self.tagged_fields(self.schema.tagged(name), get)

    def field(self, field: Field, expression: str) -> None:
        if field.is_array:
            self.array(field, expression)
        elif field.type in FIXED_SIZES:
            self.group.append(
                (
                    f"uuid({field.name!r}, {expression})" if field.type == "uuid" else expression,
                    FIXED_SIZES[field.type][1],
                )
            )
        elif field.is_struct:
            self.struct_field(field, expression)
        else:
            self.sized(field, expression)

    def struct_field(self, field: Field, expression: str) -> None:
        value = self.new()
        self.flush()
        self.add(f"{value} = {expression}")
        if not field.is_nullable:
            self.add(f"if {value} is None: raise null({field.name!r})")
            self.struct(field.type, value)
            return
        self.add(f"if {value} is None: {self.parts}.append(b'\\xff')", "else:")
        self.depth += 1
        self.group.append(("1", "b"))
        self.struct(field.type, value)
        self.flush()
        self.depth -= 1

    def length(self, length: str, layout: str) -> None:
        """Write a length or count, -1 for null."""
        if self.schema.flexible:
            self.flush()
            self.add(
                f"{self.parts}.append(ONE_BYTE[{length} + 1] if {length} < 127 else varint({length} + 1))"
            )
        else:
            self.group.append((length, layout))

    def sized(self, field: Field, expression: str) -> None:
        """Write a string, bytes or records."""
        value, length = self.new(), self.new()
        is_string = field.type == "string"
        self.add(f"{value} = {expression}")
        null = f"{value} = b''; {length} = -1" if field.is_nullable else f"raise null({field.name!r})"
        self.add(f"if {value} is None: {null}", "else:")
        self.depth += 1
        self.add(f"{value} = {value}.encode()" if is_string else f"{value} = octets({field.name!r}, {value})")
        self.add(f"{length} = len({value})")
        if is_string:
            self.add(f"if {length} > STRING_MAX: raise too_long({field.name!r}, {length})")
        self.depth -= 1
        self.length(length, "h" if is_string else "i")
        self.flush()
        self.add(f"{self.parts}.append({value})")

    def array(self, field: Field, expression: str) -> None:
        value, count = self.new(), self.new()
        null = f"{value} = (); {count} = -1" if field.is_nullable else f"raise null({field.name!r})"
        self.add(f"{value} = {expression}", f"if {value} is None: {null}", f"else: {count} = len({value})")
        self.length(count, "i")
        self.flush()
        layout = FIXED_SIZES.get(field.type, (0, ""))[1]
        if len(layout) == 1:
            self.add(f"if {value}: {self.parts}.append(pack(f'>{{{count}}}{layout}', *{value}))")
            return
        element = self.new()
        self.add(f"for {element} in {value}:")
        self.depth += 1
        if field.is_struct:
            self.struct(field.type, element)
        else:
            self.field(Field(field.name, field.type, False, False, None, None), element)
        self.flush()
        self.depth -= 1

    def tagged_fields(self, fields: list[Field], get: str) -> None:
        """Write the tagged fields that differ from their default, or the zero that says there are none."""
        if not fields:
            self.group.append(("", "x"))
            return
        self.flush()
        outer, found, count = self.parts, self.new(), self.new()
        self.add(f"{found} = []", f"{count} = 0")
        for field in fields:
            value = self.new()
            self.add(f"{value} = {get}({field.name!r}, {_default(field, tagged=True)})")
            self.add(f"if {self.differs(field, value)}:")
            self.depth += 1
            self.parts = self.new()
            self.add(f"{self.parts} = []")
            self.field(field, value)
            self.flush()
            self.add(
                f"{self.parts} = b''.join({self.parts})",
                f"{found} += (varint({field.tag}), varint(len({self.parts})), {self.parts})",
                f"{count} += 1",
            )
            self.depth -= 1
        self.parts = outer
        self.add(f"{outer}.append(varint({count}))", f"{outer} += {found}")

    def differs(self, field: Field, value: str) -> str:
        """The condition under which a tagged field is written."""
        if field.default != ():
            return f"{value} != {field.default!r}"
        if field.is_array:
            return f"{value} is None or len({value})"
        constant = f"D_{field.type}"
        self.constants[constant] = {f.name: f.default for f in self.schema.fields[field.type]}
        return f"{value} is not None and {{**{constant}, **{value}.__dict__}} != {constant}"


def _default(field: Field, *, tagged: bool = False) -> str:
    if field.default != () or field.is_array:
        return repr(field.default)
    return "None" if tagged else "NOTHING"
