"""Bounded backlogs: how much of a topic its groups may leave unconsumed, and what a producer meets at the bound (DESIGN section 9)."""
