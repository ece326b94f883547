"""The client-side assignors of classic groups: pure functions from subscriptions to assignments, wire-compatible with Java's of the same names."""
