"""A classic group told as a script: commands in, and what the group did, in lines that one can read and review as a diff.

A line that begins with "> " is a command; the lines up to the next one are what must come of it; "#" begins a remark. Commands:

    limits NAME=VALUE ...        first, if at all: fields of ClassicLimits
    CLIENT join [OPTION ...]     with the member id it knows; instance=I protocols=range:META,sticky session=10s rebalance=60s version=9
    CLIENT sync [CLIENT=BYTES …] in the generation it knows; the assignments count if it leads
    CLIENT heartbeat | commit | leave        as the member that it takes itself for; generation=N
    CLIENT forgets               its member id, as a process does that starts again
    remove INSTANCE              what an administrator does
    stored | not stored CODE     how the oldest store ends
    wait 3s | wait 100ms         time passes, and the group is woken when it asked for it
    restart                      the coordinator crashes; the group is made anew from what was stored
    close CODE
    members                      as DescribeGroups shows them

A client remembers its member id, generation and instance id as a real one does, and forgets the id when it is told that it is unknown.
"""

from dataclasses import dataclass

from tests.support.classic_groups import GroupBench

from penstock.broker.groups.classic_events import (
    Action,
    ClassicLimits,
    HeartbeatReceived,
    HeartbeatReply,
    JoinReply,
    JoinRequested,
    LeaveReply,
    LeaveRequested,
    LeavingMember,
    OffsetCommitted,
    Store,
    SyncReply,
    SyncRequested,
)
from penstock.protocol.errors import ErrorCode


@dataclass
class Client:
    """What a client knows of itself."""

    name: str
    member_id: str = ""
    generation: int = -1
    instance: str | None = None
    fresh_count: int = 0
    last_token: int = 0

    def fresh_id(self) -> str:
        self.fresh_count += 1
        return f"{self.name}-{self.fresh_count}"


class GroupScript:
    """One run of a script."""

    def __init__(self) -> None:
        self.bench = GroupBench()
        self.started_ms = self.bench.now_ms
        self.clients: dict[str, Client] = {}
        self.senders: dict[int, Client] = {}
        self.lines: list[str] = []
        self.shown_state = ""

    def run(self, text: str) -> str:
        """Return the script with what the group did in it now."""
        out: list[str] = []
        for line in text.splitlines():
            if line.startswith("> "):
                out += ["", line] if out and out[-1] and not out[-1].startswith("#") else [line]
                self.lines = []
                self._command(line[2:].split())
                self._show_state()
                out += [f"  {shown}" for shown in self.lines]
            elif line.startswith("#"):
                out += ["", line] if out and not out[-1].startswith("#") else [line]
        return "\n".join(out) + "\n"

    # Commands.

    def _command(self, words: list[str]) -> None:
        bench = self.bench
        match words:
            case ["limits", *options]:
                limits = {name: int(value) for name, value in _options(options).items()}
                self.bench = GroupBench(ClassicLimits(**limits))
            case ["stored"]:
                self._show(bench.finish_store())
            case ["not", "stored", code]:
                self._show(bench.finish_store(ErrorCode[code]))
            case ["wait", time]:
                for at_ms, actions in bench.advance(_ms(time)):
                    if actions:
                        self.lines.append(f"[{(at_ms - self.started_ms) / 1000:g}s]")
                    self._show(actions)
            case ["restart"]:
                bench.restart()
            case ["close", code]:
                waiting = len(bench.replies)
                bench.close(ErrorCode[code])
                self._show(tuple(list(bench.replies.values())[waiting:]))
            case ["members"]:
                for member in bench.group.members():
                    self.lines.append(
                        f"{member.member_id} {member.group_instance_id or '-'} {member.subscription!r} {member.assignment!r}"
                    )
            case ["remove", instance]:
                token = bench.token()
                leaving = (LeavingMember(member_id="", group_instance_id=instance),)
                self._show(bench.step(LeaveRequested(token=token, members=leaving)))
            case [name, call, *options]:
                self._call(self.clients.setdefault(name, Client(name)), call, _options(options))
            case _:
                raise ValueError(words)

    def _call(self, client: Client, call: str, options: dict[str, str]) -> None:
        generation = int(options.pop("generation", client.generation))
        bench = self.bench
        match call:
            case "join":
                self._join(client, options)
            case "sync":
                sync = SyncRequested(
                    token=self._token(client),
                    generation=generation,
                    member_id=client.member_id,
                    group_instance_id=client.instance,
                    assignments={
                        self.clients[name].member_id: value.encode() for name, value in options.items()
                    },
                )
                self._show(bench.step(sync))
            case "heartbeat":
                beat = HeartbeatReceived(
                    token=self._token(client),
                    generation=generation,
                    member_id=client.member_id,
                    group_instance_id=client.instance,
                )
                self._show(bench.step(beat))
            case "commit":
                code = bench.group.check_commit(client.member_id, generation, client.instance)
                self.lines.append(f"{client.name}: commit {code.name}")
                if code is ErrorCode.NONE:
                    self._show(bench.step(OffsetCommitted(member_id=client.member_id)))
            case "leave":
                leaving = LeavingMember(member_id=client.member_id, group_instance_id=client.instance)
                self._show(bench.step(LeaveRequested(token=self._token(client), members=(leaving,))))
            case "forgets":
                client.member_id, client.generation = "", -1
            case _:
                raise ValueError(call)

    def _join(self, client: Client, options: dict[str, str]) -> None:
        client.instance = options.pop("instance", client.instance)
        version = int(options.pop("version", 9))
        protocols = [p.partition(":") for p in options.pop("protocols", "range").split(",")]
        event = JoinRequested(
            token=self._token(client),
            member_id=client.member_id,
            fresh_member_id=client.fresh_id() if not client.member_id else "",
            group_instance_id=client.instance,
            client_id=client.name,
            session_timeout_ms=_ms(options.pop("session", "10s")),
            rebalance_timeout_ms=_ms(options.pop("rebalance", "60s")),
            protocol_type="consumer",
            protocols=tuple((name, metadata.encode()) for name, _, metadata in protocols),
            requires_known_member_id=version >= 4,
            can_skip_assignment=version >= 9,
        )
        assert not options, options
        self._show(self.bench.step(event))

    def _token(self, client: Client) -> int:
        token = self.bench.token()
        self.senders[token] = client
        client.last_token = token
        return token

    # What the group did.

    def _show(self, actions: tuple[Action, ...]) -> None:
        for action in actions:
            if isinstance(action, Store):
                self.lines.append(_store_line(action))
                continue
            client = self.senders.get(action.token, Client("administrator"))
            if action.token == client.last_token:  # what comes for an earlier life is heard by nobody
                _learn(client, action)
            match action:
                case JoinReply():
                    self.lines.append(f"{client.name}: {_join_line(action)}")
                case SyncReply():
                    line = "" if action.error_code else f": {action.protocol_name} {action.assignment!r}"
                    self.lines.append(f"{client.name}: sync {action.error_code.name}{line}")
                case HeartbeatReply():
                    self.lines.append(f"{client.name}: heartbeat {action.error_code.name}")
                case LeaveReply():
                    codes = ", ".join(
                        f"{m.member_id or m.group_instance_id or '?'} {m.error_code.name}"
                        for m in action.members
                    )
                    self.lines.append(f"{client.name}: leave {codes or action.error_code.name}")

    def _show_state(self) -> None:
        group = self.bench.group
        state = f"{group.state.value}, generation {group.generation}"
        if state != self.shown_state:
            self.lines.append(f"-- {state}")
        self.shown_state = state


def _learn(client: Client, reply: JoinReply | SyncReply | HeartbeatReply | LeaveReply) -> None:
    if reply.error_code in (ErrorCode.UNKNOWN_MEMBER_ID, ErrorCode.FENCED_INSTANCE_ID):
        client.member_id, client.generation = "", -1
    elif isinstance(reply, JoinReply) and reply.error_code is ErrorCode.MEMBER_ID_REQUIRED:
        client.member_id = reply.member_id
    elif isinstance(reply, JoinReply) and reply.error_code is ErrorCode.NONE:
        client.member_id, client.generation = reply.member_id, reply.generation


def _join_line(reply: JoinReply) -> str:
    if reply.error_code:
        return f"join {reply.error_code.name}" + (f" {reply.member_id}" if reply.member_id else "")
    line = f"joined as {reply.member_id}, generation {reply.generation}, {reply.protocol_name}, leader {reply.leader}"
    if reply.members:
        line += ", members " + " ".join(
            m.member_id + (f"={m.metadata.decode()}" if m.metadata else "") for m in reply.members
        )
    return line + (", skips the assignment" if reply.skip_assignment else "")


def _store_line(store: Store) -> str:
    snapshot = store.snapshot
    members = " ".join(f"{m.member_id}={m.assignment.decode()}" for m in snapshot.members) or "nobody"
    return f"store generation {snapshot.generation}, {snapshot.protocol_name}, leader {snapshot.leader}: {members}"


def _options(words: list[str]) -> dict[str, str]:
    return dict(word.split("=", 1) for word in words)


def _ms(text: str) -> int:
    return int(text[:-2]) if text.endswith("ms") else round(float(text.removesuffix("s")) * 1000)
