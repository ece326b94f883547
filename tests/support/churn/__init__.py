"""Groups whose members join, leave, crash and freeze at random, each in a process of its own.

`member` is what such a process runs; `group` starts, kills and stops them; `history` says afterwards whether the group was right.
"""
