"""Tables of the results store, and the steps that bring an older store up to date."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from sqlalchemy import (
    BigInteger,
    Column,
    Dialect,
    Double,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
    inspect,
    select,
    text,
    update,
)
from sqlalchemy.types import TypeDecorator

from pytest_autotune.errors import StoreError
from pytest_autotune.records import utc_text

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from sqlalchemy import Connection

    Step = Callable[[Connection], None]


class SchemaError(StoreError):
    """A store whose tables cannot be used; the message goes on where the store's name ends."""


class PlainText(TypeDecorator[str]):
    """Text that any database takes: NUL and lone surrogates (undecodable bytes of a log) are written as escapes."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:  # noqa: ARG002 - SQLAlchemy's signature
        """Escape what PostgreSQL or UTF-8 cannot hold."""
        return None if value is None else value.encode("utf-8", "backslashreplace").decode().replace("\0", "\\0")


class Moment(TypeDecorator[datetime]):
    """An aware moment, kept as text in UTC with ``Z`` so that every database returns what it was given."""

    impl = String(27)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> str | None:  # noqa: ARG002 - SQLAlchemy's signature
        """Refuse a moment without a time zone."""
        return None if value is None else utc_text(value)

    def process_result_value(self, value: str | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002 - SQLAlchemy's signature
        """Return an aware moment in UTC."""
        return None if value is None else datetime.fromisoformat(value).astimezone(UTC)


class Json(TypeDecorator[Any]):
    """A JSON value as text, keys in their order; NaN and infinity are refused."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: Dialect) -> str:  # noqa: ARG002 - SQLAlchemy's signature
        """Write JSON in ASCII: any string survives any database."""
        return json.dumps(value, allow_nan=False, separators=(",", ":"))

    def process_result_value(self, value: str | None, dialect: Dialect) -> Any:  # noqa: ARG002 - SQLAlchemy's signature
        """Read JSON; SQL NULL is None."""
        return None if value is None else json.loads(value)


_Id = BigInteger().with_variant(Integer, "sqlite")  # only an INTEGER primary key counts up by itself in SQLite

METADATA = MetaData()

version_table = Table("autotune_schema", METADATA, Column("version", Integer, nullable=False))

runs = Table(
    "runs",
    METADATA,
    Column("id", PlainText, primary_key=True),
    Column("started_at", Moment, nullable=False),
    Column("ended_at", Moment),
    Column("outcome", PlainText),
    Column("arguments", Json, nullable=False),
    Column("environment", Json, nullable=False),
)

suites = Table(
    "suites",
    METADATA,
    Column("run_id", ForeignKey(runs.c.id), primary_key=True),
    Column("suite", PlainText, primary_key=True),
    Column("study", PlainText, nullable=False),
    Column("document", Json, nullable=False),
)

trials = Table(
    "trials",
    METADATA,
    Column("id", _Id, primary_key=True),
    Column("study", PlainText, nullable=False),
    Column("generation", PlainText, nullable=False),
    Column("slot", PlainText, nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("configuration", Json, nullable=False),
    Column("configuration_key", PlainText, nullable=False),
    Column("state", PlainText, nullable=False),
    Column("status", PlainText),
    Column("reason", PlainText, nullable=False, default=""),
    Column("cause", PlainText, nullable=False, default=""),
    Column("owner", PlainText, nullable=False),
    Column("run_id", ForeignKey(runs.c.id), nullable=False),
    Column("argv", Json, nullable=False, default=[]),
    Column("effective", Json, nullable=False, default={}),
    Column("gpus", Integer, nullable=False, default=0),
    Column("cores", Json, nullable=False, default=[]),
    Column("waited_s", Double, nullable=False, default=0.0),
    Column("deploy_s", Double),
    Column("elapsed_s", Double),
    Column("server_log", PlainText, nullable=False, default=""),
    Column("url", PlainText, nullable=False, default=""),
    Column("model_name", PlainText, nullable=False, default=""),
    Column("answers", Json),
    Column("started_at", Moment, nullable=False),
    Column("ended_at", Moment),
    Column("heartbeat_at", Moment, nullable=False),
    UniqueConstraint("study", "generation", "slot", "attempt"),
    Index("trials_of_run", "run_id"),
)

batches = Table(
    "batches",
    METADATA,
    Column("id", _Id, primary_key=True),
    Column("trial_id", ForeignKey(trials.c.id), nullable=False),
    Column("level", PlainText, nullable=False),
    Column("shape", PlainText, nullable=False),
    Column("value", Double, nullable=False),
    Column("status", PlainText, nullable=False),
    Column("metrics", Json, nullable=False),
    Column("client", Json),
    Column("errors", Json, nullable=False),
    Column("requests", Integer, nullable=False),
    Column("window_s", Double, nullable=False),
    Column("started_at", Moment, nullable=False),
    Column("reason", PlainText, nullable=False),
    Column("cause", PlainText, nullable=False),
    Column("failed_checks", Json, nullable=False, default=[]),
    Column("delivered", Double, nullable=False),
    Column("oversaturated", PlainText, nullable=False),
    Column("stopped", PlainText, nullable=False),
    Column("intervals", Json, nullable=False),
    Column("remarks", Json, nullable=False),
    Column("rulings", Json, nullable=False),
    Column("server", Json, nullable=False),
    UniqueConstraint("trial_id", "level"),
)

samples = Table(
    "samples",
    METADATA,
    Column("batch_id", ForeignKey(batches.c.id), primary_key=True),
    Column("codec", PlainText, nullable=False),
    Column("data", LargeBinary, nullable=False),
)

progress = Table(
    "progress",
    METADATA,
    Column("run_id", ForeignKey(runs.c.id), primary_key=True),
    Column("owner", PlainText, primary_key=True),
    Column("text", PlainText, nullable=False),
    Column("at", Moment, nullable=False),
)

baselines = Table(  # without a key to `runs`: one that was promoted from a file may come from another store
    "baselines",
    METADATA,
    Column("run_id", PlainText, primary_key=True),
    Column("suite", PlainText, primary_key=True),
    Column("commit", PlainText, nullable=False),
    Column("recorded_at", Moment, nullable=False),
    Column("document", Json, nullable=False),
)

baseline_names = Table(
    "baseline_names",
    METADATA,
    Column("name", PlainText, primary_key=True),
    Column("suite", PlainText, primary_key=True),
    Column("run_id", PlainText, nullable=False),
    Column("promoted_at", Moment, nullable=False),
)


def create_tables(connection: Connection) -> None:
    """Create every table of the newest version."""
    _refuse_foreign(connection, set(METADATA.tables))
    METADATA.create_all(connection, checkfirst=False)


def _refuse_foreign(connection: Connection, names: set[str]) -> None:
    """Refuse to create tables by names that are already there: those are somebody else's."""
    foreign = sorted(set(inspect(connection).get_table_names()) & names)
    if foreign:
        raise SchemaError(f"holds tables of another program ({', '.join(foreign)}): name another database")


def add_load_shapes(connection: Connection) -> None:
    """Keep a load level by shape and value instead of a concurrency, and what else is known of a batch."""
    for column in (
        "shape TEXT NOT NULL DEFAULT 'concurrency'",
        "value DOUBLE PRECISION NOT NULL DEFAULT 0",
        "delivered DOUBLE PRECISION NOT NULL DEFAULT 1",
        "oversaturated TEXT NOT NULL DEFAULT ''",
        "stopped TEXT NOT NULL DEFAULT ''",
        "intervals TEXT NOT NULL DEFAULT '{}'",
        "remarks TEXT NOT NULL DEFAULT '[]'",
    ):
        connection.execute(text(f"ALTER TABLE batches ADD COLUMN {column}"))
    connection.execute(text("UPDATE batches SET value = concurrency"))
    connection.execute(text("ALTER TABLE batches DROP COLUMN concurrency"))


def add_rulings(connection: Connection) -> None:
    """Keep what a sequential test said of a batch's limits."""
    connection.execute(text("ALTER TABLE batches ADD COLUMN rulings TEXT NOT NULL DEFAULT '{}'"))


def add_baselines(connection: Connection) -> None:
    """Keep what runs recorded as baselines, and the names that were promoted."""
    _refuse_foreign(connection, {"baselines", "baseline_names"})
    connection.execute(
        text(
            'CREATE TABLE baselines (run_id TEXT NOT NULL, suite TEXT NOT NULL, "commit" TEXT NOT NULL, '
            "recorded_at VARCHAR(27) NOT NULL, document TEXT NOT NULL, PRIMARY KEY (run_id, suite))"
        )
    )
    connection.execute(
        text(
            "CREATE TABLE baseline_names (name TEXT NOT NULL, suite TEXT NOT NULL, run_id TEXT NOT NULL, "
            "promoted_at VARCHAR(27) NOT NULL, PRIMARY KEY (name, suite))"
        )
    )


def add_server(connection: Connection) -> None:
    """Keep what was seen of a server and its machine while a batch loaded them."""
    connection.execute(text("ALTER TABLE batches ADD COLUMN server TEXT NOT NULL DEFAULT '{}'"))


def add_answers(connection: Connection) -> None:
    """Keep what a server answered before it was loaded."""
    connection.execute(text("ALTER TABLE trials ADD COLUMN answers TEXT"))


def add_leases(connection: Connection) -> None:
    """Keep which cores the server of a trial had, and how long the trial waited for what it shares with others."""
    connection.execute(text("ALTER TABLE trials ADD COLUMN cores TEXT NOT NULL DEFAULT '[]'"))
    connection.execute(text("ALTER TABLE trials ADD COLUMN waited_s DOUBLE PRECISION NOT NULL DEFAULT 0"))


# Step n takes a store from version n to n + 1. The first creates the newest tables, so a new store
# needs no other; a step added later changes only stores that an older release made.
STEPS: tuple[Step, ...] = (
    create_tables,
    add_load_shapes,
    add_rulings,
    add_baselines,
    add_server,
    add_answers,
    add_leases,
)


def upgrade(connection: Connection, steps: Sequence[Step] = STEPS) -> None:
    """Bring the store behind `connection` to version `len(steps)`, within the caller's exclusive transaction."""
    version = schema_version(connection)
    if version == 0:
        steps[0](connection)
        connection.execute(version_table.insert().values(version=len(steps)))
        return
    check_not_newer(version, len(steps))
    for step in steps[version:]:
        step(connection)
    connection.execute(update(version_table).values(version=len(steps)))


def schema_version(connection: Connection) -> int:
    """Return the version of the store's tables; 0 when it has none."""
    if not inspect(connection).has_table(version_table.name):
        return 0
    return int(connection.execute(select(version_table.c.version)).scalar_one())


def check_not_newer(version: int, known: int = len(STEPS)) -> None:
    """Raise `StoreError` for a store that a later release wrote."""
    if version > known:
        raise SchemaError(
            f"has schema version {version}, this pytest-autotune reads up to {known}: "
            "upgrade pytest-autotune, or name another store"
        )
