"""Transactions whose outcome is known on return, for all who write to the metadata store.

Owns the one answer to a lost reply (PROPERTIES M1): read again, then repeat under the same compares. That is safe because a
transaction which arrives late after all finds its compares failed by its own repetition, or the other way round. Knows no key.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import trio

from penstock.broker.errors import ApiError
from penstock.protocol.errors import ErrorCode
from penstock.runtime.metadata import (
    OPERATIONS_PER_TRANSACTION_MAX,
    Compare,
    Delete,
    MetadataError,
    MetadataStore,
    MetadataUnavailable,
    OutcomeUnknown,
    Put,
    TransactionResult,
)

ATTEMPT_COUNT_MAX = 5
RETRY_DELAY_S = 0.1
BATCH_SIZE = OPERATIONS_PER_TRANSACTION_MAX - 8
"""Operations of a like kind in one transaction, when there are too many for one; leaves room for the compares that guard each."""


@dataclass(frozen=True, slots=True)
class Transaction:
    """Operations that are done together if all compares hold.

    At least one compare must fail once the operations were applied. The first operation is the witness: finding it done means that all
    were. Its value must be one that nobody else would write at the same time.
    """

    compares: Sequence[Compare]
    operations: Sequence[Put | Delete]


async def transact(store: MetadataStore, transaction: Transaction) -> TransactionResult:
    """Do it or find out that the compares do not hold; after a lost reply look, and try again.

    Durable on return. The revision is at least the one that applied it.

    Raises:
        MetadataUnavailable: nothing was changed.
        OutcomeUnknown: every attempt lost its reply; also the state of things after a cancellation.
        LeaseNotFound, TransactionTooLarge: nothing was changed.
    """
    for attempt in range(ATTEMPT_COUNT_MAX):
        try:
            result = await store.transact(transaction.compares, transaction.operations)
        except MetadataUnavailable as error:
            if attempt == 0:
                raise
            if attempt == ATTEMPT_COUNT_MAX - 1:
                raise OutcomeUnknown("the reply was lost, and the store can't be asked any more") from error
        except OutcomeUnknown:
            if attempt == ATTEMPT_COUNT_MAX - 1:
                raise
        else:
            if result.succeeded or attempt == 0:
                return result
            return TransactionResult(await _is_applied(store, transaction.operations[0]), result.revision)
        await trio.sleep(RETRY_DELAY_S)
    raise AssertionError("the last attempt returned or raised")


async def delete_unchanged(store: MetadataStore, guard: Compare, mod_revisions: Mapping[str, int]) -> int:
    """Delete keys while `guard` holds, in batches; one in which a key has changed meanwhile stays, whole. Returns how many have gone.

    Raises as `transact`, with the batches before deleted.
    """
    count = 0
    found = tuple(mod_revisions.items())
    for start in range(0, len(found), BATCH_SIZE):
        batch = found[start : start + BATCH_SIZE]
        unchanged = [Compare(key, mod_revision=revision) for key, revision in batch]
        result = await transact(store, Transaction([guard, *unchanged], [Delete(key) for key, _ in batch]))
        count += len(batch) if result.succeeded else 0
    return count


async def _is_applied(store: MetadataStore, witness: Put | Delete) -> bool:
    try:
        entry = await store.get(witness.key)
    except MetadataUnavailable as error:
        raise OutcomeUnknown("the reply was lost, and the store can't be asked any more") from error
    if isinstance(witness, Delete):
        return entry is None
    return entry is not None and entry.value == witness.value


def metadata_failure(error: MetadataError) -> ApiError:
    """What a client is told when the store did not answer as it should. Clients try again after this code."""
    if isinstance(error, OutcomeUnknown):
        return ApiError(ErrorCode.REQUEST_TIMED_OUT, f"it may or may not have been done: {error}")
    return ApiError(ErrorCode.REQUEST_TIMED_OUT, f"the metadata store can't be used: {error}")
