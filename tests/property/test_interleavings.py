"""The commit stage in every order of its steps between sessions, on a real server.

Each session writes and commits. Its COMMIT stops twice on the way: at a gate that it has queued in
front of its commit stage, and at one behind it; each is a lock that the test holds. So a session
has four steps: to write, to begin its COMMIT, to run its commit stage, and to become visible or to
fail there.
A session whose row another one has written waits for that one, as PostgreSQL says itself
(pg_blocking_pids), and its next step comes when it goes on.

A relay reads between the steps. However they are arranged, each transaction that commits is read
once, and in front of all that depend on it.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import random
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field

import asyncpg
import pytest

from pgoutbox.config.settings import MessageConfig
from pgoutbox.messages.formats import format_of
from pgoutbox.outbox.progress import Progress
from pgoutbox.outbox.reader import Outbox
from tests.conftest import Connect
from tests.support.cluster import ADMIN
from tests.support.leading import lead

_TABLES = """
create table gate (session integer, place text);
create function pass_gate() returns trigger language plpgsql as $$
begin
    perform pg_advisory_xact_lock(new.session, case new.place when 'before' then 1 else 2 end);
    if new.place = 'fails' then
        raise exception 'it fails';
    end if;
    return null;
end $$;
create constraint trigger pass after insert on gate deferrable initially deferred
    for each row execute function pass_gate();
create table t (id bigint primary key, history text not null);
"""

_WRITE = """
begin;
insert into gate values ({number}, 'before');
update t set history = history || {number} where id = {row};
insert into gate values ({number}, '{behind}');
"""


@dataclass(frozen=True)
class Program:
    """What a session does: it changes one of two rows, and may fail, or be prepared first."""

    row: int
    fails: bool = False
    is_prepared: bool = False


_A_ROW, _THE_OTHER = Program(0), Program(1)
_ARRANGEMENTS = {
    "two change one row": (_A_ROW, _A_ROW, _THE_OTHER),
    "three change one row": (_A_ROW, _A_ROW, _A_ROW),
    "one fails": (_A_ROW, Program(0, fails=True), _THE_OTHER),
    "one is prepared": (_A_ROW, Program(1, is_prepared=True)),
}


@dataclass
class Session:
    """One of the three; ``gate`` is the one at which it is, or the last that it has passed."""

    number: int
    program: Program
    connection: asyncpg.Connection
    running: asyncio.Task[str] | None = None
    gate: int = 0
    is_waiting: bool = False  # for another session
    is_committing: bool = False
    is_over: bool = False
    before: frozenset[int] = frozenset()  # whose COMMIT had returned when its own began


@dataclass
class Run:
    """One arrangement of the steps, as ``choices`` among the sessions that can go on say."""

    sessions: list[Session]
    keeper: asyncpg.Connection  # of the gates
    first_row: int
    choices: list[int]
    counts: list[int] = field(default_factory=list)  # how many sessions could go on each time

    def can_go_on(self) -> list[Session]:
        """Return the sessions that don't wait for one another, and aren't over."""
        return [one for one in self.sessions if not (one.is_over or one.is_waiting)]

    async def step(self, ready: Sequence[Session]) -> None:
        """Take the next step."""
        number = len(self.counts)
        self.counts.append(len(ready))
        choice = self.choices[number] if number < len(self.choices) else 0
        chosen = ready[choice % len(ready)]
        await self._go_on(chosen)
        # Where the others stop depends on where this one does.
        for session in sorted(self.sessions, key=lambda one: one is not chosen):
            if session.running is not None and not session.is_over:
                await self._look(session)

    async def _go_on(self, session: Session) -> None:
        if session.running is None:
            self._run(session, self._write(session))
        elif not session.is_committing:
            session.is_committing = True
            session.before = frozenset(s.number for s in self.sessions if s.is_over)
            name = f"transaction 's{session.number}'"
            self._run(session, f"prepare {name}" if session.program.is_prepared else "commit")
        elif session.gate < 2:
            await self._open(session, session.gate + 1)
        else:  # it is prepared
            await session.connection.execute(f"commit prepared 's{session.number}'")
            session.is_over = True

    async def _open(self, session: Session, gate: int) -> None:
        session.gate = gate
        await self.keeper.execute("select pg_advisory_unlock($1, $2)", session.number, gate)

    def _run(self, session: Session, query: str) -> None:
        session.running = asyncio.create_task(session.connection.execute(query))

    def _write(self, session: Session) -> str:
        program, number = session.program, session.number
        return _WRITE.format(
            number=number,
            row=self.first_row + program.row,
            behind="fails" if program.fails else "behind",
        )

    async def _look(self, session: Session) -> None:
        """Wait until a session has stopped, and see where."""
        assert session.running is not None
        ours = self.keeper.get_server_pid()
        # 0 stands for a prepared transaction. Whoever else is in the way is soon out of it.
        theirs = {0, *(one.connection.get_server_pid() for one in self.sessions)}
        while not session.running.done():
            pids = await self.keeper.fetchval(
                "select pg_blocking_pids($1)", session.connection.get_server_pid()
            )
            session.is_waiting = ours not in pids and not theirs.isdisjoint(pids)
            if session.is_waiting or ours in pids:
                return
            await asyncio.sleep(0)
        session.is_waiting = False
        session.is_over = session.is_committing and not session.program.is_prepared
        with suppress(asyncpg.RaiseError):
            await session.running


class Reader:
    """A relay that reads, and takes what it reads for sent."""

    def __init__(self, connection: asyncpg.Connection) -> None:
        message_format = format_of(MessageConfig(), "app")
        self._outbox = Outbox(
            connection, message_format, relay="default", batch_events=100, batch_bytes=2**20
        )
        self._connection = connection
        self.progress = Progress()
        self.histories: list[str] = []  # of the rows, as its events have them

    async def begin(self) -> None:
        self.progress = await lead(self._outbox, self._connection)

    async def read(self) -> None:
        """Read what is unsent."""
        while batch := await self._outbox.next_batch(self.progress):
            payloads = (json.loads(message.payload) for message in batch.messages)
            self.histories += [payload["data"]["history"] for payload in payloads]
            self.progress = batch.after
        self.progress = batch.after


class Stage:
    """The server, its three sessions, and the relay."""

    def __init__(self, connections: Sequence[asyncpg.Connection], reader: Reader) -> None:
        self._keeper, *self._connections = connections
        self._reader = reader
        self._first_row = 0

    async def play(self, programs: Sequence[Program], choices: list[int], reads: int) -> list[int]:
        """Take the steps as ``choices`` say; return how many there were to choose from each time.

        The bits of ``reads`` say after which steps the relay reads.
        """
        self._first_row += 2
        assert self._first_row < _ROWS
        self._reader.histories.clear()
        sessions = [
            Session(number, program, connection)
            for number, (program, connection) in enumerate(
                zip(programs, self._connections, strict=False), 1
            )
        ]
        run = Run(sessions, self._keeper, self._first_row, choices)
        await self._keeper.execute(_CLOSE_GATES, len(sessions))
        while ready := run.can_go_on():
            await run.step(ready)
            if reads >> len(run.counts) & 1:
                await self._reader.read()
        await self._judge(sessions, run)
        return run.counts

    async def _judge(self, sessions: Sequence[Session], run: Run) -> None:
        await self._reader.read()
        found = [int(history[-1]) for history in self._reader.histories]
        told = f"{run.choices}: {self._reader.histories}"
        assert sorted(found) == [s.number for s in sessions if not s.program.fails], told
        assert not self._reader.progress.gaps, told
        for place, history in enumerate(self._reader.histories):
            session = sessions[int(history[-1]) - 1]
            returned = {n for n in session.before if not sessions[n - 1].program.fails}
            wrote = set(map(int, history[:-1]))
            assert returned | wrote <= set(found[:place]), told


_CLOSE_GATES = """
select pg_advisory_lock(s, g) from generate_series(1, $1) s, generate_series(1, 2) g
"""
_ROWS = 12_000


@pytest.fixture
async def stage(connect: Connect) -> Stage:
    """Tables, sessions, and a relay that leads."""
    owner = await connect()
    await owner.execute(_TABLES)
    await owner.execute(f"insert into t select n, '' from generate_series(1, {_ROWS}) n")
    await owner.execute("select pgoutbox.capture_table('t')")
    reading = await connect()
    reader = Reader(reading)
    await reader.begin()
    sessions = [await connect() for _ in range(3)]
    return Stage([await connect(ADMIN), *sessions], reader)


def _next(choices: list[int], counts: Sequence[int]) -> list[int] | None:
    """Return the arrangement after that with ``choices``; None after the last one."""
    taken = [*choices, *itertools.repeat(0, len(counts) - len(choices))]
    while taken:
        last = len(taken) - 1
        if taken[last] + 1 < counts[last]:
            return [*taken[:last], taken[last] + 1]
        taken.pop()
    return None


@pytest.mark.parametrize("programs", _ARRANGEMENTS.values(), ids=_ARRANGEMENTS)
async def test_some_orders_of_the_steps(
    stage: Stage, programs: Sequence[Program], seed: int
) -> None:
    draw = random.Random(seed)
    for _ in range(25):
        choices = [draw.randrange(6) for _ in range(13)]
        await stage.play(programs, choices, draw.randrange(2**14))


@pytest.mark.long
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("programs", _ARRANGEMENTS.values(), ids=_ARRANGEMENTS)
async def test_every_order_of_the_steps(stage: Stage, programs: Sequence[Program]) -> None:
    """The relay reads after each step, or only at the end, or as the number of the order says."""
    choices: list[int] | None = []
    for number in itertools.count():
        assert choices is not None
        counts = await stage.play(
            programs, choices, (2**14 - 1, 0, number * 2_654_435_761)[number % 3]
        )
        choices = _next(choices, counts)
        if choices is None:
            break
    print(f"{number + 1} orders")
