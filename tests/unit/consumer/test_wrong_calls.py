"""Values that make no sense are refused with what would: in one line, by the option's name."""

import enum
import re

import pytest

from penstock.consumer.membership import GroupProtocol
from penstock.consumer.options import IsolationLevel, OffsetReset
from penstock.consumer.reading import timestamp_ms_of


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (OffsetReset, "auto_offset_reset='never': it is one of latest, earliest, none"),
        (IsolationLevel, "isolation_level='never': it is one of read_uncommitted, read_committed"),
        (GroupProtocol, "group_protocol='never': it is one of classic, consumer"),
    ],
)
def test_a_choice_that_is_none_is_told_with_those_there_are(kind: type[enum.StrEnum], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        kind("never")


def test_a_bound_of_another_type_is_a_type_error() -> None:
    with pytest.raises(TypeError, match="'2015-07-29' is no offset, no datetime and no date"):
        timestamp_ms_of("2015-07-29")
