"""Group coordination: who is a member of which group, and what the group has committed.

A map for who opens the folder:

- `classic_group.py` (what requests mean) on `classic_rebalance.py` (generations and deadlines) on `classic_members.py`: one group of the
  classic protocol (JoinGroup, SyncGroup, ...) as a state machine. Pure.
- `classic_events.py`: what it is told, and what it wants done.
- `consumer_group.py` (what requests mean) on `consumer_admission.py` (fencing), `consumer_assignors.py` (uniform, range),
  `consumer_reconciliation.py` (one member's way to its target) and `consumer_group_state.py` (what is stored): one group of the consumer protocol
  (KIP-848) as a state machine. Pure. `consumer_group_events.py`: its events, actions and records.
- `consumer_group_store.py`: those records in a shard's log, and the cluster's topics as the machine sees them. `topic_patterns.py`: RE2.
- `coordinator.py`: which shards there are. `serving.py` and all of the above are loaded with the first one: a broker without groups starts without them.
- `subscriptions.py`: the topics that a consumer's metadata names, as far as the coordinator must know them.

Each partition of `__consumer_offsets` that this broker leads is a shard of groups: its log is the only truth, what is in memory is a replay of it.
"""
