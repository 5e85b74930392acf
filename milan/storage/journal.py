"""A journal: the finished items of a run, in SQLite."""

import json
import sqlite3
import warnings
import zlib
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from types import TracebackType

from milan.errors import BadInput, MilanNotice


class Journal(AbstractContextManager["Journal"]):
    """The finished items of a run by id, in SQLite; an item outlives the process when ``put`` returns.

    A journal that was written with another key, or by version 0.1, is emptied, because its items do not belong to this
    run. Each item has a checksum; an item that was changed on disk counts as not finished.

    Args:
        path: the SQLite file, created if absent.
        key: identifies everything that the items depend on, see ``content_key``.

    Raises:
        BadInput: from any method, if the file is damaged or not writable.
    """

    def __init__(self, path: Path, key: str):
        self.path = Path(path)
        with self._faults("cannot use"):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._connection = sqlite3.connect(self.path, timeout=30)
            # Damaged text is detected by its checksum.
            self._connection.text_factory = lambda text: text.decode(errors="replace")
            self._open_table(key)

    def _open_table(self, key: str) -> None:
        with self._connection as base:
            base.execute("PRAGMA journal_mode=WAL")
            # A commit waits for no disk: a power cut can undo the last ones, and nothing else can.
            base.execute("PRAGMA synchronous=NORMAL")
            self._drop_other_format()
            base.execute("CREATE TABLE IF NOT EXISTS facts (name TEXT PRIMARY KEY, value TEXT NOT NULL)")
            columns = "row INTEGER PRIMARY KEY, id TEXT UNIQUE NOT NULL, value TEXT NOT NULL, checksum INTEGER NOT NULL"
            base.execute(f"CREATE TABLE IF NOT EXISTS items ({columns})")
            if base.execute("SELECT value FROM facts WHERE name = 'key'").fetchone() != (key,):
                base.execute("DELETE FROM items")
                base.execute("INSERT OR REPLACE INTO facts VALUES ('key', ?)", (key,))

    def _drop_other_format(self) -> None:
        """Empty a journal of milan 0.1, whose items have no checksums."""
        columns = [name for _, name, *_ in self._connection.execute("PRAGMA table_info(items)")]
        if columns and "checksum" not in columns:
            (count,) = self._connection.execute("SELECT count(*) FROM items").fetchone()
            self._connection.execute("DROP TABLE items")
            if count:
                text = f"{self.path} has {count} answers of milan 0.1, which are made again"
                warnings.warn(text, MilanNotice, stacklevel=5)

    def get(self, id: str) -> dict | None:
        """Return the value stored under ``id``, or None."""
        with self._faults("cannot read"):
            query = "SELECT id, value, checksum FROM items WHERE id = ?"
            row = self._connection.execute(query, (json.dumps(id),)).fetchone()
        return json.loads(row[1]) if row and self._sound(*row) else None

    def put(self, id: str, value: dict) -> None:
        """Store ``value`` (plain values only) under ``id``, replacing an earlier value.

        Raises:
            BadInput: the journal cannot be written, as on a full disk; earlier items are kept.
        """
        # JSON is ASCII: SQLite cannot store lone surrogates, which file names may have.
        name, text = json.dumps(id), json.dumps(value)
        conflict = "ON CONFLICT (id) DO UPDATE SET value = excluded.value, checksum = excluded.checksum"
        with self._faults("cannot write to"), self._connection as base:
            query = f"INSERT INTO items (id, value, checksum) VALUES (?, ?, ?) {conflict}"
            base.execute(query, (name, text, _crc(name, text)))

    def ids(self) -> list[str]:
        """Return all ids, in the order in which they were first stored."""
        with self._faults("cannot read"):
            rows = self._connection.execute("SELECT id, value, checksum FROM items ORDER BY row")
            return [json.loads(row[0]) for row in rows if self._sound(*row)]

    def _sound(self, id: str, value: str, checksum: int) -> bool:
        """Return whether an item is unchanged since it was stored."""
        sound = _crc(id, value) == checksum
        if not sound:
            warnings.warn(f"an answer in {self.path} is damaged and is made again", MilanNotice, stacklevel=4)
        return sound

    @contextmanager
    def _faults(self, what: str, remedy: str = "delete it to start again") -> Iterator[None]:
        try:
            yield
        except (sqlite3.DatabaseError, OSError) as error:
            remedy = "finished items are kept; free disk space and run again" if "full" in str(error) else remedy
            raise BadInput(f"{what} the journal {self.path}: {error}; {remedy}") from None

    def close(self) -> None:
        """Close the database; the journal cannot be used afterwards."""
        self._connection.close()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _crc(id: str, value: str) -> int:
    return zlib.crc32(f"{id} {value}".encode())
