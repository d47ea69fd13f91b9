"""Run folders in a bucket: `--workdir=gs://BUCKET/FOLDER`. Binaries work in a copy on this machine's disk.

A bucket has no appending, renaming or locks, which run folders need. So a run in a bucket is trained in a local copy that
is uploaded in the background, and read in a temporary one.
"""

import contextlib
import fcntl
import hashlib
import pathlib
import shutil
import signal
import sys
import tempfile
import uuid
from collections.abc import Callable, Iterator

from experiments.bucket import LEASE, RENEW_SECONDS, Bucket, Lease, Repeated
from experiments.mirror import Lost, Mirror
from jaxdl.data.cache import cache_dir
from jaxdl.engine.folder import Taken
from jaxdl.errors import UserError

PUSH_SECONDS = 30.0


@contextlib.contextmanager
def borrowed(address: str) -> Iterator[str]:
    """A copy of a run for a command that reads it; what the command adds or replaces there is uploaded afterwards.

    Yields:
      the copy's folder, which is removed at the end.

    Raises:
      UserError: the bucket cannot be used, or no run is there; or, at the end, something was not uploaded: it says where
        that lies.
    """
    bucket = Bucket(address)
    if not {"config.json", "sweep.json"} & bucket.listing().keys():
        raise UserError(f"{bucket.address} is no run folder (no config.json): give --workdir of a trained run")
    folder = pathlib.Path(tempfile.mkdtemp(prefix="jaxdl-"))
    mirror = Mirror(bucket, folder / bucket.title)
    keeps = False
    try:
        mirror.pull()
        with _renamed(mirror.place, bucket.address):
            yield str(mirror.place)
        try:
            sent = mirror.push()
        except UserError as error:
            keeps = True
            raise UserError(f"not uploaded: {error}; what was made is kept in {mirror.place}") from error
        if sent:
            _say(f"uploaded to {bucket.address}: {', '.join(sent[:5])}{' ...' if len(sent) > 5 else ''}")
    finally:
        if not keeps:
            shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def claimed(address: str, overwrites: bool = False) -> Iterator[str]:
    """A copy of a run for a command that trains it, uploaded every half minute and at the end.

    The copy stays on this machine; a command that finds the bucket as it was left goes on from there.

    Args:
      address: of the run folder.
      overwrites: whether the command may take an older run's place.

    Yields:
      the copy's folder.

    Raises:
      Taken: another process is training there.
      UserError: the bucket cannot be used; or, at the end, something was not uploaded: it says where that lies.
    """
    bucket = Bucket(address)
    if any(name.endswith(f"/{LEASE}") for name in bucket.listing()):
        raise UserError(f"runs are trained in folders below {bucket.address}: choose another --workdir")
    home = cache_dir() / "buckets" / f"{bucket.title}-{hashlib.sha256(bucket.address.encode()).hexdigest()[:12]}"
    with _alone(home, bucket.address) as owner:
        lease = Lease(bucket, owner)
        lease.take(_say)
        mirror = Mirror(bucket, home / bucket.title, home / "equal.json", lease.renew, overwrites)
        renewing, pushing = Repeated(_renewing(lease), RENEW_SECONDS), Repeated(_pushing(mirror), PUSH_SECONDS)
        renewing.start()
        try:
            if aside := mirror.pull():
                _say(f"{bucket.address} was trained on elsewhere: what was never uploaded from here is kept in {aside}")
            mirror.tidy()
            pushing.start()
            try:
                with _renamed(mirror.place, bucket.address):
                    yield str(mirror.place)
            finally:
                pushing.stop()
                _conclude(mirror)
        finally:
            renewing.stop()
            if not pushing.is_alive():  # after Ctrl-C an upload may go on: then the lease ends by itself
                with contextlib.suppress(UserError):
                    lease.release()


def _conclude(mirror: Mirror) -> None:
    """The last upload; after an error what was trained stays where it is."""
    try:
        sent = mirror.push()
    except Exception as error:
        remedy = "" if isinstance(error, Lost) else ": the same command uploads it"
        raise UserError(f"not uploaded: {error}; the run is kept in {mirror.place}{remedy}") from error
    if sent:
        _say(f"uploaded to {mirror.bucket.address}")


def _renewing(lease: Lease) -> Callable[[], bool]:
    def renew() -> bool:
        with contextlib.suppress(Exception):  # the next one, or the next upload, may get through
            lease.renew()
        if lease.lost and signal.getsignal(signal.SIGTERM) not in (signal.SIG_DFL, signal.SIG_IGN, None):
            signal.raise_signal(signal.SIGTERM)  # the engine saves and ends
            return False
        return True

    return renew


def _pushing(mirror: Mirror) -> Callable[[], bool]:
    told: list[str] = []

    def push() -> bool:
        try:
            mirror.push()
            told.clear()
        except Lost:
            return False
        except Exception as error:
            if not told:
                _say(f"not uploaded: {error}; trying again every {PUSH_SECONDS:.0f} s")
            told.append(str(error))
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
def _renamed(place: pathlib.Path, address: str) -> Iterator[None]:
    """Errors name the address in place of the copy."""
    try:
        yield
    except UserError as error:
        text = str(error)
        if "disk is full" in text or str(place) not in text:
            raise
        raise type(error)(text.replace(str(place), address)) from error


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)  # what a command prints to stdout may be JSON
