"""What can go wrong, in words for the person who has to mend it, and the exit codes."""

from __future__ import annotations

from collections.abc import Iterable


def one_a_line(problems: Iterable[str], what: str) -> str:
    """Return the only problem as it is, several below a count of ``what``."""
    lines = list(problems)
    return lines[0] if len(lines) == 1 else "\n  ".join([f"{len(lines)} {what}:", *lines])


class PgoutboxError(Exception):
    """A failure that the user is told about in one sentence.

    ``hint`` says what to do about it; ``exit_code`` is that of the command that fails with it.
    ``subject`` is that of the message it is about. It stands in no sentence, for a row's key may be
    part of it, and sentences go to Sentry.
    """

    exit_code = 1

    def __init__(
        self, message: str, *, hint: str | None = None, subject: str | None = None
    ) -> None:
        super().__init__(message)
        self.hint = hint
        self.subject = subject


class ConfigError(PgoutboxError):
    """A flag, a variable or a key of the configuration file is wrong."""

    exit_code = 2


class SchemaError(PgoutboxError):
    """The database lacks the schema pgoutbox, or has another version of it."""

    exit_code = 3


class SchemaMissing(SchemaError):
    """The database has no schema pgoutbox, none any more, or not all of it yet."""


class DatabaseError(PgoutboxError):
    """PostgreSQL can't be reached, or refuses what was asked of it."""

    exit_code = 4


class PublishError(PgoutboxError):
    """NATS can't be reached, or does not store what was published."""

    exit_code = 5


class Interrupted(PublishError):
    """Publishing stopped, and is worth another try.

    The first ``confirmed`` messages are stored; of the rest some may be.
    """

    confirmed = 0


class StreamLost(Interrupted):
    """The stream lacks messages that it had confirmed, and that nobody has removed."""


class IdConflict(Interrupted):
    """The stream dropped a message as a repeat of one that isn't ours."""


class Refused(PgoutboxError):
    """The message after the ``confirmed`` ones can never be stored; not worth another try."""

    exit_code = 5
    confirmed = 0


class TooLarge(Refused):
    """The message exceeds a limit of NATS."""

    limit = "the stream's max_msg_size"


class LimitTooLow(Interrupted):
    """A message exceeds a limit that is taken for a mistake; it waits until that is mended."""


class InstallError(PgoutboxError):
    """A table can't be captured or released, or a relay forgotten."""

    exit_code = 6


class OutboxReplaced(DatabaseError):
    """The outbox, or the relay's progress in it, isn't the one that the relay knows any more."""


class LeadershipLost(PgoutboxError):
    """Another relay of the same name has taken over."""


class Paused(PgoutboxError):
    """Somebody has paused the relay."""


class AlreadyRunning(PgoutboxError):
    """Another relay of the same name leads."""
