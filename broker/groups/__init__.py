"""Group coordination: who is a member of which group, and what the group has committed.

A map for who opens the folder:

- `classic_group.py` (what requests mean) on `classic_rebalance.py` (generations and deadlines) on `classic_members.py`: one group of the
  classic protocol (JoinGroup, SyncGroup, ...) as a state machine. Pure.
- `classic_events.py`: what it is told, and what it wants done.
- `subscriptions.py`: the topics that a consumer's metadata names, as far as the coordinator must know them.

Each partition of `__consumer_offsets` that this broker leads is a shard of groups: its log is the only truth, what is in memory is a replay of it.
"""
