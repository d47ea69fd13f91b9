"""A local copy of a run folder in a bucket, and how the two are made equal.

What lies in the bucket can be resumed from at any moment, on any machine: a checkpoint becomes visible with its last file,
its run's configuration and the rows of metrics.jsonl that it counts are there before it, and records after it.
"""

import contextlib
import hashlib
import itertools
import json
import os
import pathlib
import re
import shutil
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass

from experiments.bucket import LEASE, Bucket, Stored
from jaxdl.errors import UserError

ROWS, CONFIG, MARKER = "metrics.jsonl", "config.json", "_CHECKPOINT_METADATA"
_CHECKPOINT = re.compile(r"((?:.*/)?checkpoints/\d+)/(.+)")
# locks, files that are being written, and checkpoints that are not finished or set aside
_PRIVATE = re.compile(r"(^|/)\.|\.orbax-checkpoint-tmp|(^|/)checkpoints/[^/]*[^/\d][^/]*(/|$)")
# what readers of a run add to it
_ADDED = re.compile(r"(^|/)(evaluation\.json$|samples/|export/)")
_ATTEMPTS, _THREADS = 5, 8
# how old the state file may become: a sweep has thousands of files, and all of them stand in it
_KEEP_SECONDS = 1.0


class Lost(UserError):
    """Another process trains in the bucket now."""


@dataclass(frozen=True)
class Entry:
    """A file as it was when it was equal to an object: the object's generation, the file's bytes, time in ns and md5."""

    generation: int
    size: int
    time: int
    md5: str


class Mirror:
    """A local folder and an address that are made equal, in one direction or the other.

    Args:
      bucket: the address.
      place: the folder.
      state: a file that outlives this process and says what is equal; None: nothing is known, and nothing is kept.
      holds: asked before something that another process wrote is replaced: whether this one may write there.
      overwrites: whether a new config.json is that of a run that takes an older one's place.
    """

    def __init__(
        self,
        bucket: Bucket,
        place: pathlib.Path,
        state: pathlib.Path | None = None,
        holds: Callable[[], bool] = lambda: True,
        overwrites: bool = False,
    ):
        self.bucket, self.place, self._state = bucket, place, state
        self._holds, self._overwrites = holds, overwrites
        self.known: dict[str, Entry] = {}
        self._lock, self._kept = threading.Lock(), 0.0
        with contextlib.suppress(OSError, ValueError, TypeError):
            if state is not None:
                self.known = {name: Entry(**found) for name, found in json.loads(state.read_text()).items()}

    # --- from the bucket ----------------------------------------------------------------------------------------------

    def pull(self) -> pathlib.Path | None:
        """Makes the folder what the bucket holds.

        Where nobody has trained in the bucket since the last upload from here, the folder is as new or newer: only what is
        missing in it comes. Otherwise the bucket wins.

        Returns:
          where the folder was moved to if it held what was never uploaded and the bucket won; else None.

        Raises:
          UserError: the bucket cannot be read, or it changes all the time.
        """
        self.place.mkdir(parents=True, exist_ok=True)
        listed = self._listed()
        ours = self._is_ours(listed)
        aside = None if ours else self._set_aside()
        try:
            for _ in range(_ATTEMPTS):
                wanted = self._missing(listed) if ours else whole(listed)
                if self._download(wanted):
                    if not ours:
                        self._drop(self._files().keys() - wanted.keys())
                    return aside
                listed = self._listed()
        finally:
            self._keep()
        raise UserError(f"{self.bucket.address} changes while it is read: try again when less is written there")

    def tidy(self) -> None:
        """Removes parts of checkpoints that a killed process left in the bucket; only for who trains there."""
        listed = self._listed()
        left = listed.keys() - whole(listed).keys() - self.known.keys()
        _each(lambda name: self.bucket.delete(name, listed[name].generation), left)

    def _listed(self) -> dict[str, Stored]:
        return {name: found for name, found in self.bucket.listing().items() if not _PRIVATE.search(name)}

    def _is_ours(self, remote: dict[str, Stored]) -> bool:
        """Whether the bucket holds of a run's own files what was uploaded from here, and nothing else."""
        trained = {name: found.generation for name, found in remote.items() if not _ADDED.search(name)}
        known = {name: entry.generation for name, entry in self.known.items() if not _ADDED.search(name)}
        complete = whole(remote)  # parts of a checkpoint that a killed process left behind are nobody's training
        trained = {name: found for name, found in trained.items() if name in known or name in complete}
        return trained == known and bool(self._files())

    def _missing(self, remote: dict[str, Stored]) -> dict[str, Stored]:
        """What somebody removed from the copy, or added in the bucket; nothing of a run that was overwritten here."""
        here, found = self._files(), {}
        for name, stored in whole(remote).items():
            entry = self.known.get(name)
            newer = entry is None or entry.generation != stored.generation
            if name in here and not (newer and _ADDED.search(name)):
                continue
            config = next((each for each in _configs_above(name) if each in self.known), None)
            if config is None or config not in here or self._md5(config) == self.known[config].md5:
                found[name] = stored
        return found

    def _set_aside(self) -> pathlib.Path | None:
        here = self._files()
        unsent = [name for name, found in here.items() if self._is_new(name, found)]
        self.known = {name: entry for name, entry in self.known.items() if name in here and name not in unsent}
        if self._state is None or not any(map(_CHECKPOINT.fullmatch, unsent)):
            return None
        names = (f"{self.place.name}.before{k or ''}" for k in itertools.count())
        aside = next(path for path in map(self.place.with_name, names) if not path.exists())
        self.place.rename(aside)
        self.place.mkdir()
        self.known = {}
        return aside

    def _drop(self, names: Iterable[str]) -> None:
        for name in names:
            (self.place / name).unlink()
            self.known.pop(name, None)
        for folder, _, _ in os.walk(self.place, topdown=False):  # an empty one could pass for a damaged checkpoint
            if folder != str(self.place):
                with contextlib.suppress(OSError):
                    os.rmdir(folder)

    def _download(self, remote: dict[str, Stored]) -> bool:
        """Brings files; False if one of them was replaced or removed in the bucket meanwhile."""

        def download(name: str) -> bool:
            generation, here = remote[name].generation, self.place / name
            entry = self.known.get(name)
            if entry is not None and entry.generation == generation and here.exists():
                return True
            here.parent.mkdir(parents=True, exist_ok=True)
            part = here.with_name(f".{here.name}.part")
            try:
                if not self.bucket.download(name, generation, part):
                    return False
                part.replace(here)
            finally:
                part.unlink(missing_ok=True)
            self._equal(name, Entry(generation, *self._stat(here), self._md5(name)))
            return True

        return all(_each(download, remote))

    # --- to the bucket ------------------------------------------------------------------------------------------------

    def push(self) -> list[str]:
        """Uploads what has changed and removes what is gone from here; the names of what was uploaded.

        Raises:
          Lost: another process trains there now.
          UserError: the bucket cannot be written.
        """
        if not self._holds():
            raise Lost(f"another process trains in {self.bucket.address} now")
        here = self._files()
        self._hold_on_to(
            name for name, found in here.items() if _CHECKPOINT.fullmatch(name) and self._is_new(name, found)
        )
        try:
            return self._push(here)
        finally:
            shutil.rmtree(self._held, ignore_errors=True)
            self._keep()

    def _push(self, here: dict[str, tuple[int, int]]) -> list[str]:
        if self._overwrites:
            self._purge(here)
        changed = [name for name, found in here.items() if self._is_new(name, found)]
        last = {name: name.rsplit("/", 1)[-1] for name in changed}
        parts = {name: match[1] for name in changed if (match := _CHECKPOINT.fullmatch(name))}
        pieces = [name for name in parts if last[name] != MARKER]
        self._hide({parts[name] for name in pieces} | self._ahead(here))
        others = [name for name in changed if name not in parts]
        done = self._upload([name for name in others if last[name] == CONFIG], here)
        done += self._upload([name for name in others if last[name] == ROWS], here)
        done += self._upload(pieces, here)
        missing = {parts[name] for name in pieces if self._is_new(name, here[name])}
        markers = [name for name in here if _is_marker(name) and self._is_new(name, here[name])]
        done += self._upload([name for name in markers if name.removesuffix(f"/{MARKER}") not in missing], here)
        done += self._upload([name for name in others if last[name] not in (CONFIG, ROWS)], here)
        self._remove(self._needless(here))
        return done

    @property
    def _held(self) -> pathlib.Path:
        return self.place.with_name(f".{self.place.name}.held")

    def _hold_on_to(self, names: Iterable[str]) -> None:
        """Links files of checkpoints, which the run may remove while they are uploaded."""
        shutil.rmtree(self._held, ignore_errors=True)
        for name in names:
            with contextlib.suppress(OSError):  # gone already, or a file system without links
                (self._held / name).parent.mkdir(parents=True, exist_ok=True)
                os.link(self.place / name, self._held / name)

    def _needless(self, here: dict[str, tuple[int, int]]) -> list[str]:
        """What is gone from here, but for the checkpoints of runs of which no newer one is whole in the bucket."""
        found = {name: match[1].rsplit("/", 1)[0] for name in here if (match := _CHECKPOINT.fullmatch(name))}
        there = {found[name] for name in found if _is_marker(name) and not self._is_new(name, here[name])}
        waiting = tuple(f"{folder}/" for folder in set(found.values()) - there)
        return [name for name in self.known.keys() - here.keys() if not name.startswith(waiting)]

    def _ahead(self, here: dict[str, tuple[int, int]]) -> set[str]:
        """Checkpoints in the bucket from which a run here went back to an older one, as it does from a damaged one."""
        newest: dict[str, int] = {}
        for name in here:
            if match := _CHECKPOINT.fullmatch(name):
                folder, step = match[1].rsplit("/", 1)
                newest[folder] = max(newest.get(folder, 0), int(step))
        found = set()
        for name in self.known.keys() - here.keys():
            if match := _CHECKPOINT.fullmatch(name):
                folder, step = match[1].rsplit("/", 1)
                if folder in newest and int(step) > newest[folder]:
                    found.add(match[1])
        return found

    def _is_new(self, name: str, found: tuple[int, int]) -> bool:
        entry = self.known.get(name)
        return entry is None or found != (entry.size, entry.time)

    def _purge(self, here: dict[str, tuple[int, int]]) -> None:
        """Removes runs that were overwritten here before anything of the new ones comes."""
        for name in here:
            if name.rsplit("/", 1)[-1] == CONFIG and name in self.known and self._is_new(name, here[name]):
                folder = name.removesuffix(CONFIG)
                self._remove([each for each in self.known if each.startswith(folder)])

    def _hide(self, folders: set[str]) -> None:
        """Makes checkpoints invisible whose files are about to be replaced."""
        self._remove(f"{folder}/{MARKER}" for folder in sorted(folders) if f"{folder}/{MARKER}" in self.known)

    def _remove(self, names: Iterable[str]) -> None:
        """Deletes objects: records, then the last files of checkpoints, then all others, configurations last."""
        stages: list[list[str]] = [[], [], [], []]
        for name in names:
            last = name.rsplit("/", 1)[-1]
            stages[{"record.json": 0, MARKER: 1, CONFIG: 3}.get(last, 2)].append(name)
        for stage in stages:
            _each(self._delete, stage)

    def _delete(self, name: str) -> None:
        self.bucket.delete(name, self.known[name].generation)
        self._equal(name, None)

    def _upload(self, names: Iterable[str], here: dict[str, tuple[int, int]]) -> list[str]:
        """Uploads files that are still what `here` says; the names of those that were."""

        def upload(name: str) -> str | None:
            try:
                path = self._held / name if (self._held / name).exists() else self.place / name
                content = path.read_bytes()
                same = self._stat(path) == here[name]
            except FileNotFoundError:
                return None
            if name.rsplit("/", 1)[-1] == ROWS:
                content = content[: content.rfind(b"\n") + 1]  # later rows do no harm, half a row would
            elif not same:
                return None  # a record may tell of a checkpoint that is not uploaded yet
            md5, entry = hashlib.md5(content, usedforsecurity=False).hexdigest(), self.known.get(name)
            if entry is not None and entry.md5 == md5:
                generation, sent = entry.generation, None
            else:
                generation, sent = self._write(name, content, entry.generation if entry else 0), name
            self._equal(name, Entry(generation, *here[name], md5))
            return sent

        return [name for name in _each(upload, names) if name is not None]

    def _write(self, name: str, content: bytes, generation: int) -> int:
        from google.api_core.exceptions import PreconditionFailed

        for _ in range(_ATTEMPTS):
            try:
                return self.bucket.upload(name, content, generation)
            except PreconditionFailed:  # by another process, or by this one's request whose answer was lost
                if not self._holds():
                    raise Lost(f"another process trains in {self.bucket.address} now") from None
                generation = self.bucket.generation(name)
        raise UserError(f"{self.bucket.address}/{name} is replaced by others all the time")

    # --- files --------------------------------------------------------------------------------------------------------

    def _files(self) -> dict[str, tuple[int, int]]:
        """Name -> (bytes, time) of each finished file."""
        found = {}
        for folder, _, names in os.walk(self.place):
            for each in names:
                path = pathlib.Path(folder, each)
                name = path.relative_to(self.place).as_posix()
                with contextlib.suppress(FileNotFoundError):
                    if not _PRIVATE.search(name):
                        found[name] = self._stat(path)
        return dict(sorted(found.items()))

    def _md5(self, name: str) -> str:
        with open(self.place / name, "rb") as file:
            return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()

    @staticmethod
    def _stat(path: pathlib.Path) -> tuple[int, int]:
        found = path.stat()
        return found.st_size, found.st_mtime_ns

    def _equal(self, name: str, entry: Entry | None) -> None:
        with self._lock:
            self.known.pop(name, None)
            if entry is not None:
                self.known[name] = entry
            if time.monotonic() - self._kept > _KEEP_SECONDS:
                self._keep()

    def _keep(self) -> None:
        if self._state is not None:
            temporary = self._state.with_suffix(".new")
            temporary.write_text(json.dumps({name: asdict(entry) for name, entry in self.known.items()}))
            temporary.replace(self._state)
        self._kept = time.monotonic()


def whole(remote: dict[str, Stored]) -> dict[str, Stored]:
    """A listing without checkpoints whose upload has not ended."""
    found = {}
    for name, stored in remote.items():
        part = _CHECKPOINT.fullmatch(name)
        if name != LEASE and (part is None or f"{part[1]}/{MARKER}" in remote):
            found[name] = stored
    return found


def _is_marker(name: str) -> bool:
    return name.endswith(f"/{MARKER}")


def _configs_above(name: str) -> list[str]:
    """Names of the config.json of the run, and of the group, that a file belongs to; nearest first."""
    return [(folder / CONFIG).as_posix() for folder in pathlib.PurePosixPath(name).parents]


def _each(function: Callable, values: Iterable) -> list:
    """The results over all values; of several errors the first is raised, after all have been tried."""
    values = list(values)
    if len(values) < 2:
        return [function(value) for value in values]
    with ThreadPoolExecutor(_THREADS) as pool:
        return list(pool.map(function, values))
