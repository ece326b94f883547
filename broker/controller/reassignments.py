"""How a partition moves to other replicas: begin, complete, cancel. Pure.

Owns the rules of KIP-455. While a move is under way, `replicas` holds the target and behind it those to be removed, so followers of both
sides fetch; when the target is in sync, it is all that remains. Sources: Kafka's `PartitionReassignmentReplicas` and
`PartitionReassignmentRevert`.

A move may be changed while it runs. Unlike Kafka's, what is then cancelled goes back to the replicas from before the first of them: those that
only the abandoned target wanted are dropped at once.
"""

from collections.abc import Sequence
from dataclasses import replace

from penstock.broker.controller.elections import Members, Rules
from penstock.broker.isr import effective_min_insync
from penstock.broker.keys import NO_LEADER, PartitionState


def is_reassigning(state: PartitionState) -> bool:
    """Whether a move is under way."""
    return bool(state.adding_replicas or state.removing_replicas)


def target_of(state: PartitionState) -> tuple[int, ...]:
    """The replicas as they will be."""
    return tuple(i for i in state.replicas if i not in state.removing_replicas)


def original_of(state: PartitionState) -> tuple[int, ...]:
    """The replicas from before the move."""
    return tuple(i for i in state.replicas if i not in state.adding_replicas)


def begun(state: PartitionState, target: Sequence[int]) -> PartitionState:
    """The state with a move to `target` (not empty, no id twice) begun, or changed if one runs already.

    Another order of the same replicas is a move that is done at once.
    """
    original = original_of(state)
    dropped = [i for i in state.adding_replicas if i not in target]
    if not set(state.isr).difference(dropped):
        # Nobody but replicas of the abandoned target is in sync: they go when the new target is.
        original, dropped = (*original, *dropped), []
    adding = tuple(i for i in target if i not in original)
    removing = tuple(i for i in original if i not in target)
    return _confined(state, (*target, *removing), adding, removing)


def cancelled(state: PartitionState) -> PartitionState | None:
    """The state with the move undone; None where none of the old replicas is in sync, so that it would lose records."""
    original = original_of(state)
    if not set(original).intersection(state.isr):
        return None
    return _confined(state, original, (), ())


def completed(state: PartitionState, members: Members, rules: Rules) -> PartitionState:
    """The state with the move ended if the target is in sync, else as it is.

    In sync must be all that are new, all of the target that live, and at least min.insync.replicas: a dead one of the old replicas
    that stays does not hold up the move, and the move does not cost the partition its redundancy.
    """
    if not is_reassigning(state):
        return state
    target = target_of(state)
    in_sync = members.fit.intersection(target, state.isr)
    wanted = members.fit.intersection(target).union(state.adding_replicas)
    done = _confined(state, target, (), ())
    enough = max(1, effective_min_insync(rules.min_insync_replicas, done))
    return done if in_sync == wanted and len(in_sync) >= enough else state


def _confined(
    state: PartitionState, replicas: tuple[int, ...], adding: tuple[int, ...], removing: tuple[int, ...]
) -> PartitionState:
    """The state on these replicas; whoever is none of them any more loses its part in it. Leadership is open then if it was the leader."""
    return replace(
        state,
        replicas=replicas,
        isr=tuple(i for i in replicas if i in state.isr),
        leader=state.leader if state.leader in replicas else NO_LEADER,
        adding_replicas=adding,
        removing_replicas=removing,
        eligible_leader_replicas=tuple(i for i in replicas if i in state.eligible_leader_replicas),
    )
