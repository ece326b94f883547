"""One module for each API: `handle(broker, context, request)`."""
