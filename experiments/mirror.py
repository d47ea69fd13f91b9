"""Run folders in a bucket: `--workdir=gs://BUCKET/FOLDER`. Binaries work in a copy on this machine's disk.

A bucket has no appending, renaming or locks, which run folders need. So a run in a bucket is trained in a local copy that
is uploaded in the background: what lies in the bucket can be resumed from at any moment, on any machine. Its checkpoints
become visible with their last file, the rows of metrics.jsonl that they count are there before them, and records after.
"""

import contextlib
import errno
import fcntl
import hashlib
import itertools
import json
import os
import pathlib
import re
import shutil
import signal
import sys
import tempfile
import uuid
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass

from experiments.bucket import LEASE, RENEW_SECONDS, Bucket, Lease, Repeated, Stored
from jaxdl.data.cache import cache_dir
from jaxdl.engine.folder import Taken
from jaxdl.errors import UserError

PUSH_SECONDS = 30.0
ROWS, MARKER = "metrics.jsonl", "_CHECKPOINT_METADATA"
_CHECKPOINT = re.compile(r"((?:.*/)?checkpoints/\d+)/(.+)")
_UNFINISHED = re.compile(r"(^|/)\.|\.orbax-checkpoint-tmp|checkpoints/[^/]*[^/\d][^/]*(/|$)")
_ATTEMPTS, _THREADS = 5, 8


@dataclass(frozen=True)
class Entry:
    """A file as it was when it was equal to an object: the object's generation, the file's bytes and time in ns."""

    generation: int
    size: int
    time: int


class Mirror:
    """A local folder and an address that are made equal, in one direction or the other.

    Args:
      bucket: the address.
      place: the folder.
      state: a file that outlives this process and says what is equal; None: nothing is known, and nothing is kept.
    """

    def __init__(self, bucket: Bucket, place: pathlib.Path, state: pathlib.Path | None = None):
        self.bucket, self.place, self._state = bucket, place, state
        self.known: dict[str, Entry] = {}
        with contextlib.suppress(OSError, ValueError, TypeError):
            if state is not None:
                self.known = {name: Entry(**found) for name, found in json.loads(state.read_text()).items()}

    def pull(self) -> None:
        """Makes the folder what the bucket holds.

        Where nobody has changed the bucket since the last upload from here the folder stays: it is as new or newer.

        Raises:
          UserError: the bucket cannot be read, or it changes all the time.
        """
        self.place.mkdir(parents=True, exist_ok=True)
        if not self._files():
            self.known = {}  # somebody removed the copy: that is no reason to remove the original
        for _ in range(_ATTEMPTS):
            remote = whole(self.bucket.listing())
            if {name: found.generation for name, found in remote.items()} == {
                name: entry.generation for name, entry in self.known.items()
            }:
                return
            if self._download(remote):
                return
        raise UserError(f"{self.bucket.address} changes while it is read: try again when less is written there")

    def _download(self, remote: dict[str, Stored]) -> bool:
        here = self._files()
        for name in here.keys() - remote.keys():
            (self.place / name).unlink(missing_ok=True)
        wanted = {}
        for name, found in remote.items():
            entry = self.known.get(name)
            if entry is None or entry.generation != found.generation or here.get(name) != (entry.size, entry.time):
                wanted[name] = found

        def download(item: tuple[str, Stored]) -> bool:
            return self.bucket.download(item[0], item[1].generation, self.place / item[0])

        if not all(_each(download, wanted.items())):
            return False
        here = self._files()
        self.known = {name: Entry(found.generation, *here[name]) for name, found in remote.items()}
        self._keep()
        return True

    def push(self) -> list[str]:
        """Uploads what has changed and removes what is gone from here; the names of what was uploaded.

        Raises:
          UserError: the bucket cannot be written.
        """
        here = self._files()
        changed = [name for name, found in here.items() if self._is_new(name, found)]
        parts = {name: match for name in changed if (match := _CHECKPOINT.fullmatch(name))}
        rows = [name for name in changed if name.rsplit("/", 1)[-1] == ROWS]
        pieces = [name for name in parts if not _is_marker(name)]
        done = self._upload(rows, here) + self._upload(pieces, here)
        missing = {parts[name][1] for name in pieces if name not in done}
        markers = [name for name in parts if _is_marker(name) and parts[name][1] not in missing]
        done += self._upload(markers, here)
        done += self._upload(sorted(set(changed) - parts.keys() - set(rows)), here)
        gone = self.known.keys() - here.keys()
        for names in (filter(_is_marker, gone), itertools.filterfalse(_is_marker, gone)):
            _each(lambda name: self.bucket.delete(name, self.known[name].generation), names)
        self.known = {name: entry for name, entry in self.known.items() if name not in gone}
        self._keep()
        return done

    def _is_new(self, name: str, found: tuple[int, int]) -> bool:
        entry = self.known.get(name)
        return entry is None or found != (entry.size, entry.time)

    def _upload(self, names: Iterable[str], here: dict[str, tuple[int, int]]) -> list[str]:
        """Uploads files that are still what `here` says; the names of those."""

        def upload(name: str) -> tuple[str, int] | None:
            path = self.place / name
            try:
                content = path.read_bytes()
                same = self._stat(path) == here[name]
            except FileNotFoundError:
                return None
            if name.rsplit("/", 1)[-1] == ROWS:
                content = content[: content.rfind(b"\n") + 1]  # later rows do no harm, half a row would
            elif not same:
                return None  # a record may tell of a checkpoint that is not uploaded yet
            return name, self.bucket.upload(name, content)

        done = []
        for found in _each(upload, names):
            if found is not None:
                name, generation = found
                self.known[name] = Entry(generation, *here[name])
                self._keep()
                done.append(name)
        return done

    def _files(self) -> dict[str, tuple[int, int]]:
        """Name -> (bytes, time) of each finished file."""
        found = {}
        for folder, _, names in os.walk(self.place):
            for each in names:
                path = pathlib.Path(folder, each)
                name = path.relative_to(self.place).as_posix()
                with contextlib.suppress(FileNotFoundError):
                    if not _UNFINISHED.search(name):
                        found[name] = self._stat(path)
        return dict(sorted(found.items()))

    @staticmethod
    def _stat(path: pathlib.Path) -> tuple[int, int]:
        found = path.stat()
        return found.st_size, found.st_mtime_ns

    def _keep(self) -> None:
        if self._state is not None:
            temporary = self._state.with_suffix(".new")
            temporary.write_text(json.dumps({name: asdict(entry) for name, entry in self.known.items()}))
            temporary.replace(self._state)


def _is_marker(name: str) -> bool:
    return name.endswith(f"/{MARKER}")


def whole(remote: dict[str, Stored]) -> dict[str, Stored]:
    """A listing without the lease and without checkpoints whose upload has not ended."""
    found = {}
    for name, stored in remote.items():
        part = _CHECKPOINT.fullmatch(name)
        if name != LEASE and (part is None or f"{part[1]}/{MARKER}" in remote):
            found[name] = stored
    return found


@contextlib.contextmanager
def borrowed(address: str) -> Iterator[str]:
    """A copy of a run for a command that reads it; what the command adds or replaces there is uploaded afterwards.

    Yields:
      the copy's folder, which is removed at the end.

    Raises:
      UserError: the bucket cannot be used, or nothing is there.
    """
    bucket = Bucket(address)
    with tempfile.TemporaryDirectory(prefix="jaxdl-") as folder:
        mirror = Mirror(bucket, pathlib.Path(folder, bucket.title))
        with _room_for(mirror.place):
            mirror.pull()
        try:
            yield str(mirror.place)
        except UserError as error:
            raise type(error)(str(error).replace(str(mirror.place), bucket.address)) from error
        if sent := mirror.push():
            _say(f"uploaded to {bucket.address}: {', '.join(sent[:5])}{' ...' if len(sent) > 5 else ''}")


@contextlib.contextmanager
def claimed(address: str) -> Iterator[str]:
    """A copy of a run for a command that trains it, uploaded every half minute and at the end.

    The copy stays on this machine; a command that finds the bucket as it was left goes on from there.

    Yields:
      the copy's folder.

    Raises:
      Taken: another process is training there.
      UserError: the bucket cannot be used; or, at the end, something was not uploaded: it says where it lies.
    """
    bucket = Bucket(address)
    home = cache_dir() / "buckets" / f"{bucket.title}-{hashlib.sha256(bucket.address.encode()).hexdigest()[:12]}"
    place = home / bucket.title
    with _alone(home, bucket.address) as owner:
        lease = Lease(bucket, owner)
        lease.take(_say)
        mirror = Mirror(bucket, place, home / "equal.json")
        threads = [Repeated(_renewing(lease), RENEW_SECONDS), Repeated(_pushing(mirror, lease), PUSH_SECONDS)]
        threads[0].start()
        try:
            with _room_for(place):
                mirror.pull()
            threads[1].start()
            yield str(place)
        finally:
            for thread in threads:
                if thread.is_alive():
                    thread.stop()
            _conclude(mirror, lease)


def _conclude(mirror: Mirror, lease: Lease) -> None:
    address = mirror.bucket.address
    if lease.lost:
        raise UserError(f"another process has taken {address} over: what this one did last is kept in {mirror.place}")
    try:
        sent = mirror.push()
        lease.release()
    except UserError as error:
        raise UserError(f"{error}; the run is kept in {mirror.place}: the same command uploads it") from error
    if sent:
        _say(f"uploaded to {address}")


def _renewing(lease: Lease) -> Callable[[], bool]:
    def renew() -> bool:
        try:
            if lease.renew():
                return True
        except UserError:
            return True  # the next one, or the next upload, may get through
        os.kill(os.getpid(), signal.SIGTERM)  # the engine saves and ends
        return False

    return renew


def _pushing(mirror: Mirror, lease: Lease) -> Callable[[], bool]:
    told: set[str] = set()

    def push() -> bool:
        if lease.lost:
            return False
        try:
            mirror.push()
            told.clear()
        except UserError as error:
            if not told:
                _say(f"{error}: trying again every {PUSH_SECONDS:.0f} s")
            told.add(str(error))
        return True

    return push


@contextlib.contextmanager
def _alone(home: pathlib.Path, address: str) -> Iterator[str]:
    """Holds the lock of a copy's folder; the folder's identifier."""
    try:
        home.mkdir(parents=True, exist_ok=True)
        file = open(home / "owner", "a+", encoding="utf-8")  # noqa: SIM115
    except OSError as error:
        raise UserError(f"cannot write to {home}, where runs of buckets are copied to: {error.strerror}") from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise Taken(
                f"another process of this machine is working in {address}: wait for it, or choose another --workdir"
            ) from error
        file.seek(0)
        owner = file.read()
        if not owner:
            owner = uuid.uuid4().hex
            file.write(owner)
            file.flush()
        yield owner


@contextlib.contextmanager
def _room_for(place: pathlib.Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        shutil.rmtree(place, ignore_errors=True)
        raise UserError(f"the disk is full: the run was not copied to {place}; free some space") from error


def _each(function: Callable, values: Iterable) -> list:
    values = list(values)
    if len(values) < 2:
        return [function(value) for value in values]
    with ThreadPoolExecutor(_THREADS) as pool:
        return list(pool.map(function, values))


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)  # what a command prints to stdout may be JSON
