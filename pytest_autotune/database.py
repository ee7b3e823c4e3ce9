"""The database behind the store: transactions, locks between processes, and errors in one line."""

from __future__ import annotations

import fcntl
import hashlib
import os
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import create_engine, event
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, IntegrityError, NoSuchModuleError, SQLAlchemyError

from pytest_autotune.errors import StoreError
from pytest_autotune.masking import mask_text
from pytest_autotune.tables import STEPS, SchemaError, check_not_newer, schema_version, upgrade

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from sqlalchemy import URL, Connection, Engine

    from pytest_autotune.tables import Step

WAIT_S = 30  # how long a transaction waits for another process's

# What was measured is on the disk when its transaction ends. Heartbeats and progress are not worth
# the wait: they survive a killed process, and mean nothing after a power cut.
_DURABLE = ("PRAGMA synchronous=FULL", "BEGIN IMMEDIATE")
_SWIFT = ("PRAGMA synchronous=NORMAL", "BEGIN IMMEDIATE")

_EXAMPLES = "sqlite:///.autotune/results.db or postgresql://user@host/database"

# What drivers say, in lower case -> what it means and what to do.
_REMEDIES = (
    ("file is not a database", "is not an SQLite database: move that file away, or name another store"),
    ("malformed", "is damaged: restore a copy, or move that file away and measure again"),
    ("readonly", "is read-only: make the file and its directory writable, or name another store"),
    (
        "database is locked",
        f"has been locked by another process for {WAIT_S} s: end that process, or name another store",
    ),
    ("lock timeout", f"has been locked by another process for {WAIT_S} s: end that process, or name another store"),
    ("disk is full", "cannot grow, the disk is full: free some space and run again"),
)


class Database:
    """Transactions on an SQLite file or a PostgreSQL database, from many processes at once.

    Every transaction that writes is exclusive on SQLite from its first statement on; on PostgreSQL
    those that name the same `lock` exclude each other. A process that dies leaves no part of a
    transaction and no lock behind.
    """

    def __init__(self, url: str) -> None:
        parsed = _parse(url)
        self.name = parsed.render_as_string(hide_password=True)
        sqlite = parsed.get_backend_name() == "sqlite"
        self._path = Path((parsed.database or "").removeprefix("file:")) if sqlite else None
        self._checked = False
        self._engine = _open(parsed, self.name)

    def close(self) -> None:
        """Close every connection."""
        self._engine.dispose()

    def migrate(self, steps: Sequence[Step] = STEPS) -> None:
        """Create or upgrade the tables; any number of processes may do so at once."""
        with ExitStack() as stack:
            if self._path is not None:
                self._prepare_file(stack, self._path)
            with self._transaction(*_DURABLE, lock="schema") as connection:
                upgrade(connection, steps)
        self._checked = True

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """Yield a transaction for reading."""
        self._check()
        with self._transaction() as connection:
            yield connection

    @contextmanager
    def write(self, *, lock: str = "", durable: bool = True) -> Iterator[Connection]:
        """Yield a transaction that is committed when the block ends and rolled back when it raises.

        Not `durable`: it survives a killed process, but not a power cut.
        """
        self._check()
        with self._transaction(*(_DURABLE if durable else _SWIFT), lock=lock) as connection:
            yield connection

    @contextmanager
    def _transaction(self, *begin_sqlite: str, lock: str = "") -> Iterator[Connection]:
        with self._explained(), self._engine.connect() as connection:
            connection.info["begin"] = begin_sqlite or ("BEGIN",)
            with connection.begin():
                if lock and self._path is None:
                    connection.exec_driver_sql(f"SET LOCAL lock_timeout = '{WAIT_S}s'")
                    connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_lock_number(lock)})")
                yield connection

    def _check(self) -> None:
        if self._checked:
            return
        with self._transaction() as connection:
            version = schema_version(connection)
            check_not_newer(version)
        if version < len(STEPS):
            raise StoreError(f"results store {self.name} has no tables of this version: migrate() comes first")
        self._checked = True

    def _prepare_file(self, stack: ExitStack, path: Path) -> None:
        """Create the file's directory and switch to WAL, one process at a time until `stack` ends.

        SQLite does not wait for locks while it changes the journal mode, so processes queue at the
        directory: a lock that leaves no file behind and ends with its holder.
        """
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(path.parent, os.O_RDONLY)
            stack.callback(os.close, descriptor)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        except OSError as error:
            raise StoreError(
                f"results store {self.name} cannot be created: {error.strerror}: {error.filename or path.parent}; "
                "name another store"
            ) from error
        with self._explained(), self._engine.connect() as connection:
            connection.info["begin"] = ()
            connection.exec_driver_sql("PRAGMA journal_mode=WAL")

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except SchemaError as error:
            raise StoreError(f"results store {self.name} {error}") from error
        except SQLAlchemyError as error:
            raise StoreError(f"results store {self.name} {self._explain(error)}") from error

    def _explain(self, error: SQLAlchemyError) -> str:
        original = getattr(error, "orig", None) or error
        text = mask_text(" ".join(str(original).split()))
        if self._path is not None and "unable to open" in text:
            if self._path.is_dir():
                return f"is a directory: name a file in it, e.g. {self._path / 'results.db'}"
            return "cannot be opened: make its directory exist and writable, or name another store"
        for said, remedy in _REMEDIES:
            if said in text.lower():
                return remedy
        if isinstance(error, IntegrityError):
            return f"refused a write: {text}"
        return f"failed: {text}; check that it is reachable, or name another store"


def _parse(url: str) -> URL:
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):
        raise StoreError(f"results store {mask_text(url)!r} is not a database URL: write {_EXAMPLES}") from None
    name = parsed.render_as_string(hide_password=True)
    if parsed.drivername in ("postgres", "postgresql"):
        parsed = parsed.set(drivername="postgresql+psycopg")
    if parsed.get_backend_name() not in ("sqlite", "postgresql"):
        raise StoreError(f"results store {name}: no database {parsed.get_backend_name()!r} here: write {_EXAMPLES}")
    if parsed.get_backend_name() == "sqlite" and (parsed.database or ":memory:").endswith(":memory:"):
        raise StoreError(f"results store {name} lives in memory, other processes cannot see it: write {_EXAMPLES}")
    return parsed


def _open(url: URL, name: str) -> Engine:
    sqlite = url.get_backend_name() == "sqlite"
    try:
        if not sqlite:
            return create_engine(url, pool_pre_ping=True, connect_args={"connect_timeout": 10})
        engine = create_engine(url, connect_args={"timeout": WAIT_S})
    except NoSuchModuleError:
        raise StoreError(f"results store {name}: no driver {url.drivername!r}: write {_EXAMPLES}") from None
    except ModuleNotFoundError as error:
        raise StoreError(
            f"results store {name} needs the driver {error.name}: pip install 'pytest-autotune[postgres]'"
        ) from error
    event.listen(engine, "connect", _configure_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    return engine


def _configure_sqlite(connection: Any, _record: object) -> None:
    connection.isolation_level = None  # the driver's own BEGIN comes too late for an exclusive claim
    connection.execute("PRAGMA foreign_keys=ON")


def _begin_sqlite(connection: Connection) -> None:
    for statement in connection.info.pop("begin", ("BEGIN",)):
        connection.exec_driver_sql(statement)


def _lock_number(name: str) -> int:
    digest = hashlib.blake2b(f"pytest-autotune {name}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big", signed=True)
