"""The bench of fsyncs runs to its end and counts some; what the figures are it does not say."""

from pathlib import Path

from bench.group_fsync import main
from click.testing import CliRunner


def test_a_row_of_one_partition_on_a_slowed_disk_shows_nothing(tmp_path: Path) -> None:
    arguments = ["--seconds", "0.3", "--slowness", "2", "--partitions", "1", "--data-dir", str(tmp_path)]
    done = CliRunner().invoke(main, arguments, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    _, row = done.output.splitlines()
    partitions, slowness, acks_per_s, syncs_per_ack, at_once, *_ = row.split()
    assert (partitions, slowness, at_once) == ("1", "2x", "1")
    assert float(acks_per_s) > 0
    assert 0 < float(syncs_per_ack) < 1
