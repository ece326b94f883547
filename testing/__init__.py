"""Brokers for tests: `penstock.Broker` in a trio program, and a pytest plugin with one in a process of its own."""
