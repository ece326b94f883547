"""What must always hold (PROPERTIES.md): one small module for each property or few, told of what happens, reporting what must not.

None of them knows brokers, hosts or clients: `observer.py` and the workload tell them, and `test_checkers.py` shows each one a bad history.
"""
