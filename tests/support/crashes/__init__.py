"""A whole broker on a simulated disk, whose power is cut and whose process is killed, again and again, in virtual time."""
