"""The run folder: its files, its lock, and the checks that protect what lies there."""

import contextlib
import errno
import fcntl
import json
import os
import pathlib
import shutil
from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxdl.engine.processes import by_first, first_only
from jaxdl.errors import UserError

FILES = ("config.json", "record.json", "metrics.jsonl", "summary.json", "report.html", "evaluation.json", ".lock")
# leaves of config.json that change what is written down about a run, not the run
LOGGING = ("train.log_every", "train.checkpoint_every")
FOLDERS = ("checkpoints", ".checkpoints.removed", "plots", "samples", "export")


class Taken(UserError):
    """Another process holds a folder's lock."""


class RunFolder:
    """One run's folder.

    Args:
      path: the folder; made, with its parents, if it is not there.

    Raises:
      UserError: if it cannot be made or written, or is the address of a bucket.
    """

    def __init__(self, path: str | os.PathLike):
        if "://" in str(path):
            raise UserError(
                f"{path} is no folder of this machine: train in a local --workdir, or in gs://BUCKET/FOLDER"
            )
        self.path = pathlib.Path(path)
        self._lock: int | None = None
        self._make()

    @by_first
    def _make(self) -> None:
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(
                f"cannot make the workdir {self.path}: {error.strerror}; choose another --workdir"
            ) from error
        if not os.access(self.path, os.W_OK | os.X_OK):
            raise UserError(f"cannot write to the workdir {self.path}: choose another --workdir")

    # --- lock -------------------------------------------------------------------------------------------------------

    def lock(self) -> "RunFolder":
        """Takes the folder for this process until it ends or `unlock` is called.

        Raises:
          Taken: if another process has it.
          UserError: if it cannot be written.
        """
        self._take()
        return self

    @by_first
    def _take(self) -> None:
        try:
            descriptor = os.open(self.path / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise UserError(
                f"cannot write to the workdir {self.path}: {error.strerror}; choose another --workdir"
            ) from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(descriptor)
            if error.errno in (errno.EAGAIN, errno.EACCES):
                message = f"another process is working in {self.path}: wait for it, or choose another --workdir"
                raise Taken(message) from error
            raise
        self._lock = descriptor

    @first_only
    def unlock(self) -> None:
        """Gives the folder back."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    # --- JSON files ---------------------------------------------------------------------------------------------------

    @first_only
    def write_json(self, name: str, value: Any) -> None:
        """Replaces a JSON file in one move, so that a reader never sees half of it.

        Raises:
          UserError: as `write_text`.
        """
        text = json.dumps(plain(value), indent=2, ensure_ascii=False) + "\n"
        self.write_text(name, text)

    def write_text(self, name: str, text: str) -> None:
        """Replaces a text file in one move.

        Raises:
          UserError: as `write_bytes`.
        """
        self.write_bytes(name, text.encode())

    @first_only
    def write_bytes(self, name: str, content: bytes) -> None:
        """Replaces a file in one move.

        Raises:
          UserError: if it cannot be written; the old file stays.
        """
        target, temporary = self.path / name, self.path / f".{name}.{os.getpid()}"
        try:
            with open(temporary, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, target)
        except OSError as error:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise _cannot_write(target, error) from error

    @first_only
    def tidy(self) -> None:
        """Removes what killed writes of the files above left behind; only for who holds the run's lock."""
        for name in FILES:
            for path in self.path.glob(f".{name}.*"):
                path.unlink(missing_ok=True)

    @by_first
    def read_json(self, name: str) -> Any:
        """A JSON file's object, None if it is not there.

        Raises:
          UserError: if it is no JSON object.
        """
        path = self.path / name
        try:
            value = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
            raise UserError(f"{path} cannot be read ({error}): mend or remove it, or use --overwrite") from error
        if not isinstance(value, dict):
            raise UserError(f"{path} cannot be read (it holds no JSON object): mend or remove it, or use --overwrite")
        return value

    # --- metrics.jsonl ------------------------------------------------------------------------------------------------

    @first_only
    def append_rows(self, rows: list[Mapping[str, Any]]) -> None:
        """Adds lines to metrics.jsonl.

        Raises:
          UserError: if they cannot be written.
        """
        if not rows:
            return
        path = self.path / "metrics.jsonl"
        try:
            with open(path, "a", encoding="utf-8") as file:
                file.write("".join(json.dumps(plain(row)) + "\n" for row in rows))
        except OSError as error:
            raise _cannot_write(path, error) from error

    @first_only
    def sync_rows(self) -> None:
        """Makes the rows durable: a checkpoint that counts them must not outlive them.

        Raises:
          UserError: if they cannot be brought to the disk.
        """
        path = self.path / "metrics.jsonl"
        try:
            if path.exists():
                with open(path, "rb") as file:
                    os.fsync(file.fileno())
        except OSError as error:
            raise _cannot_write(path, error) from error

    @by_first
    def truncate_rows(self, count: int) -> None:
        """Keeps the first `count` lines of metrics.jsonl: what came after the checkpoint that a run resumes from goes.

        Raises:
          UserError: if fewer whole lines are there, or the file cannot be read or written.
        """
        path = self.path / "metrics.jsonl"
        try:
            data = path.read_bytes() if path.exists() else b""
        except OSError as error:
            raise UserError(f"{path} cannot be read ({error.strerror}): mend it, or use --overwrite") from error
        end = 0
        for _ in range(count):
            end = data.find(b"\n", end) + 1
            if end == 0:
                raise UserError(
                    f"{path} has fewer than the {count} rows its checkpoint knows of: it was changed; --overwrite"
                )
        try:
            if end < len(data):
                with open(path, "r+b") as file:
                    file.truncate(end)
        except OSError as error:
            raise _cannot_write(path, error) from error

    @by_first
    def rows(self, start: int = 0) -> list[dict[str, Any]]:
        """All rows of metrics.jsonl, or those from number `start` on.

        Raises:
          UserError: if the file cannot be read, or a line is no JSON.
        """
        path = self.path / "metrics.jsonl"
        if not path.exists():
            return []
        try:
            return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()[start:]]
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise UserError(f"{path} is damaged ({error}); --overwrite starts the run anew") from error
        except OSError as error:
            raise UserError(f"{path} cannot be read ({error.strerror}): mend it, or use --overwrite") from error

    # --- protection ---------------------------------------------------------------------------------------------------

    @by_first
    def is_run(self) -> bool:
        """Whether a run, or a group of runs over seeds, was ever started here."""
        return (self.path / "config.json").exists()

    @by_first
    def clear(self) -> None:
        """Deletes a run's files and nothing else.

        Raises:
          UserError: if this is no run folder and not empty.
        """
        strangers = [path.name for path in self.path.iterdir() if path.name != ".lock"]
        if strangers and not self.is_run():
            raise UserError(f"{self.path} is no run folder (it has no config.json): --overwrite deletes nothing there")
        # a kill in between must leave what --overwrite takes for a run, and no record of what is gone
        (self.path / "record.json").unlink(missing_ok=True)
        for name in FOLDERS:
            shutil.rmtree(self.path / name, ignore_errors=True)
        for seed in self.path.glob("seed*"):
            if seed.is_dir() and seed.name[4:].isdigit() and (seed / "config.json").exists():
                RunFolder(seed).clear()
                (seed / ".lock").unlink(missing_ok=True)
                if not any(seed.iterdir()):
                    seed.rmdir()
        for name in reversed(FILES):  # config.json last
            if name != ".lock":
                (self.path / name).unlink(missing_ok=True)


def differences(old: Mapping[str, Any], new: Mapping[str, Any], may_grow: bool) -> list[str]:
    """What differs between two config.json, one "name: old -> new" each.

    More `train.steps` is no difference if they may grow, and neither is how often a run logs and saves.
    """
    found = []
    for name in sorted((set(old) | set(new)).difference(LOGGING)):
        a, b = old.get(name, "(none)"), new.get(name, "(none)")
        if a == b or (name == "train.steps" and may_grow and isinstance(a, int) and b > a):
            continue
        found.append(f"{name}: {a} there, {b} here")
    return found


def plain(value: Any) -> Any:
    """Python values for JSON: arrays as lists, numbers that are not finite as null."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    if isinstance(value, float) and not np.isfinite(value):
        return None
    return value


def _cannot_write(path: pathlib.Path, error: OSError) -> UserError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return UserError(
            f"the disk is full: {path} was not written; earlier steps are intact, free some space and run again"
        )
    return UserError(f"cannot write {path}: {error.strerror}; choose another --workdir")
