"""Load on a broker that will be hurt: writers, readers, commits and deletions, and a ledger of what the broker has promised to each.

`ledger` is pure and says what is owed; the actors (`writers`, `actors`) keep it, each in a thread of its own; `load` starts and stops them
and holds the broker to it.
"""
