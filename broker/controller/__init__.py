"""The controller: what whichever broker holds the controller key does for the cluster.

`elections.py`, `reassignments.py`   what a partition's state becomes (pure)
`planner.py`                         which partitions need a change now (pure)
`controller.py`                      claims the key, watches, stores what is planned
`partition_admin.py`                 what clients ask for: elections, reassignments, removing a dead broker
"""
