"""What a monitor may read of a running broker. Loaded only where `metrics.listener` is set."""
