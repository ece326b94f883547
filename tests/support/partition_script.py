"""One replica of a partition told as a script: what it learns, and what it does, in lines that one can read and review as a diff.

A line that begins with "> " is a command; the lines up to the next one are what must come of it; "#" begins a remark. Replicas are 1, 2
and 3, and this is number 1, with write.caching, so that what is appended counts. Commands:

    min isr N
    leader N epoch N isr N,N [elr N,N]      the watch brings a state of the store
    again                                   the same state once more
    append | append N                       this many records
    N fetches at OFFSET                     a follower's fetch that is believed
    told N                                  this replica follows: how far the leader says that all is committed
    wait 30s                                time passes; then the leader looks around
    refused                                 the ISR change that was asked for is certain not to have been stored
    fenced | unfenced                       the deadline of the lease has passed; it was extended
    cut at OFFSET                           the log loses everything from there on
"""

from dataclasses import replace

from penstock.broker.partition_machine import (
    Action,
    AdvanceHighWatermark,
    Appended,
    BecomeFollower,
    BecomeLeader,
    ChangeIsr,
    EpochStarted,
    Event,
    FollowerFetched,
    GoOffline,
    IsrChangeFailed,
    LeaderTold,
    LogTruncated,
    PartitionMachine,
    RefuseWaiting,
    Role,
    SettingsChanged,
    StateLearned,
    TimePassed,
)

REPLICAS = (1, 2, 3)
ME = 1


class PartitionScript:
    """Runs one script."""

    def __init__(self) -> None:
        self._machine = PartitionMachine(ME, write_caching=True, min_insync_replicas=1)
        self._lines: list[str] = []
        self._end_offset = 0
        self._partition_epoch = 0
        self._now_ms = 0.0
        self._last: StateLearned | None = None
        self._shown = ""

    def run(self, script: str) -> str:
        """The script with what comes of it in place of what was expected."""
        for line in script.splitlines():
            if line.startswith("> "):
                self._lines.append(line)
                self._do(line[2:].split())
                self._show()
                self._lines.append("")
            elif line.startswith("#"):
                self._lines.append(line)
        return "\n".join(self._lines).rstrip() + "\n"

    def _do(self, words: list[str]) -> None:
        machine = self._machine
        match words:
            case ["min", "isr", count]:
                self._step(SettingsChanged(write_caching=True, min_insync_replicas=int(count)))
            case ["leader", leader, "epoch", epoch, "isr", isr, *more]:
                self._partition_epoch += 1
                self._learn(int(leader), int(epoch), _numbers(isr), _numbers(more[1]) if more else ())
            case ["again"]:
                assert self._last is not None
                self._step(
                    replace(self._last, log_end_offset=self._end_offset, durable_end_offset=self._end_offset)
                )
            case ["append", *count]:
                self._end_offset += int(count[0]) if count else 1
                self._step(Appended(self._end_offset))
            case [broker, "fetches", "at", offset]:
                self._step(FollowerFetched(int(broker), 100 + int(broker), int(offset), self._now_ms))
            case ["told", offset]:
                self._step(LeaderTold(int(offset)))
            case ["wait", seconds]:
                self._now_ms += float(seconds.removesuffix("s")) * 1000
                self._step(TimePassed(self._now_ms))
            case ["refused"]:
                assert machine.asked is not None
                self._step(IsrChangeFailed(machine.asked.partition_epoch))
            case ["fenced" | "unfenced" as word]:
                machine.is_fenced = word == "fenced"
            case ["cut", "at", offset]:
                self._end_offset = int(offset)
                self._step(LogTruncated(self._end_offset, self._end_offset, 0))
            case _:
                raise AssertionError(f"no such command: {' '.join(words)}")

    def _learn(self, leader: int, epoch: int, isr: tuple[int, ...], elr: tuple[int, ...]) -> None:
        end = self._end_offset
        self._last = StateLearned(
            leader,
            epoch,
            isr,
            REPLICAS,
            self._partition_epoch,
            end,
            end,
            self._now_ms,
            eligible_leader_replicas=elr,
        )
        self._step(self._last)

    def _step(self, event: Event) -> None:
        for action in self._machine.step(event):
            self._lines.append(f"  {_tell(action)}")
            if isinstance(action, BecomeLeader):
                self._lines[-1] += f", which begins at {self._end_offset}"
                self._step(EpochStarted(self._end_offset))

    def _show(self) -> None:
        """One line about where it stands, where that is new."""
        machine = self._machine
        shown = f"{machine.role.value}, end {self._end_offset}, high watermark {machine.high_watermark}"
        if machine.role is Role.LEADER:
            shown += f", ISR {_list(machine.isr)}"
            if machine.asked is not None:
                shown += f", waiting for {_list(machine.maximal_isr)}"
            if not machine.has_enough_replicas:
                shown += ", too few"
        if shown != self._shown:
            self._lines.append(f"  -- {shown}")
        self._shown = shown


def _tell(action: Action) -> str:
    match action:
        case AdvanceHighWatermark(offset):
            return f"all below {offset} is committed"
        case BecomeLeader(epoch):
            return f"leads in epoch {epoch}"
        case BecomeFollower(leader, epoch):
            return f"follows {leader} in epoch {epoch}"
        case GoOffline():
            return "serves nobody"
        case ChangeIsr(isr, _, _, joining):
            return f"asks for ISR {_list(isr)}" + "".join(f", {broker} joins" for broker, _ in joining)
        case RefuseWaiting():
            return "refuses who waits: NOT_ENOUGH_REPLICAS_AFTER_APPEND"


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(number) for number in text.split(","))


def _list(brokers: tuple[int, ...]) -> str:
    return ",".join(str(broker) for broker in brokers)
