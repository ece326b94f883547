"""What the broker's log says of a recovery is for people, and alarms nobody where nothing was taken away."""

from penstock.storage.log_state import OpenReport


def test_a_cut_is_told_with_its_place_and_is_not_harmless() -> None:
    report = OpenReport(
        cut_path="orders-0/0.log", cut_position=70, cut_bytes=5, rebuilt_indexes=["orders-0/0.log"]
    )
    assert str(report) == "5 bytes cut off orders-0/0.log at 70; indexes made anew for orders-0/0.log"
    assert not report.is_harmless


def test_indexes_made_anew_are_harmless_and_removed_segments_and_notes_are_not() -> None:
    assert OpenReport(rebuilt_indexes=["orders-0/0.log"]).is_harmless
    assert not OpenReport(removed_segments=["orders-0/9.log"]).is_harmless
    assert (
        str(OpenReport(removed_segments=["9.log"], notes=["no checkpoint"])) == "removed 9.log; no checkpoint"
    )
    assert not OpenReport(notes=["no checkpoint"]).is_harmless
