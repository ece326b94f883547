"""The in-process broker and pytest plugin (comes with the client libraries)."""
