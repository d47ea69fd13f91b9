"""Objects in Google Cloud Storage under one address, and the lease by which one process at a time trains there."""

import contextlib
import datetime
import json
import os
import pathlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from experiments.session import SCHEME
from jaxdl.engine.folder import Taken
from jaxdl.errors import UserError

LEASE, CLOCK = ".lease", ".clock"
# a lease that nobody has renewed for so long is its dead holder's
LEASE_SECONDS, RENEW_SECONDS = 180.0, 30.0
# of an upload of more than 8 MB: what goes out in one request must get through before the client library gives up
_CHUNK = 32 << 20
# seconds for which a request is tried again
_PATIENCE = 30.0


@dataclass(frozen=True)
class Stored:
    """What a listing says of an object: the number of this version of it, and its bytes."""

    generation: int
    size: int


class Bucket:
    """The objects under "gs://BUCKET/FOLDER", by their names below it.

    Credentials are the machine's (those of a TPU VM, or of `gcloud auth application-default login`).

    Raises:
      UserError: the address names no folder in a bucket, or the client library or credentials are missing.
    """

    def __init__(self, address: str):
        self.address = address.rstrip("/")
        name, _, self.folder = self.address.removeprefix(SCHEME).partition("/")
        if not name or {"", ".", ".."} & set(self.folder.split("/")):
            raise UserError(f"{address} names no folder in a bucket: expected gs://BUCKET/FOLDER")
        try:
            from google.cloud import storage
        except ImportError:
            raise UserError(f"{address} needs google-cloud-storage: pip install -e '.[gcs]'") from None
        from google.cloud.storage.retry import DEFAULT_RETRY

        # a project is of no use for objects, and without one the library would ask for it; its own patience is two minutes
        self._retry = DEFAULT_RETRY.with_timeout(_PATIENCE)
        with self.explained():
            try:
                self._bucket = storage.Client(project="none").bucket(name)
            except ValueError as error:
                raise UserError(f"{address} names no bucket ({error})") from error

    @property
    def title(self) -> str:
        """The last part of the address."""
        return self.folder.rsplit("/", 1)[-1]

    @contextlib.contextmanager
    def explained(self) -> Iterator[None]:
        """What Google's libraries raise, as a UserError."""
        import requests
        from google.api_core import exceptions
        from google.auth.exceptions import DefaultCredentialsError, GoogleAuthError
        from google.cloud.storage.exceptions import DataCorruption

        try:
            yield
        except DefaultCredentialsError as error:
            raise UserError(f"no credentials for {self.address}: run: gcloud auth application-default login") from error
        except exceptions.PreconditionFailed:
            raise
        except exceptions.NotFound as error:
            raise UserError(f"{self.address} is not there: make the bucket, or correct the address") from error
        except (exceptions.Forbidden, exceptions.Unauthorized) as error:
            raise UserError(f"{self.address} may not be used with these credentials ({_first_line(error)})") from error
        except (
            exceptions.GoogleAPIError,
            GoogleAuthError,
            requests.RequestException,
            ConnectionError,
            DataCorruption,
        ) as error:
            raise UserError(f"{self.address} cannot be reached ({_first_line(error)})") from error

    def listing(self) -> dict[str, Stored]:
        """Name -> version and size of each object that can be a file below a folder."""
        prefix = f"{self.folder}/"
        with self.explained():
            found = list(self._bucket.client.list_blobs(self._bucket, prefix=prefix, retry=self._retry))
        names = {blob.name.removeprefix(prefix): Stored(int(blob.generation), int(blob.size)) for blob in found}
        return {name: stored for name, stored in names.items() if not {"", ".", ".."} & set(name.split("/"))}

    def upload(self, name: str, content: bytes, generation: int | None = None) -> int:
        """Writes an object; its new generation.

        Args:
          name: below the address.
          content: all of it.
          generation: which version is replaced, 0: none may be there; None: whatever is there.

        Raises:
          PreconditionFailed: another version is there.
        """
        import mimetypes

        blob = self._blob(name)
        blob.chunk_size = _CHUNK
        kind = mimetypes.guess_type(name)[0] or "application/octet-stream"
        with self.explained():
            blob.upload_from_string(content, content_type=kind, if_generation_match=generation, retry=self._retry)
        return int(blob.generation)

    def download(self, name: str, generation: int, path: pathlib.Path) -> bool:
        """Reads one version of an object into a file; False if it is there no more."""
        from google.api_core import exceptions

        path.parent.mkdir(parents=True, exist_ok=True)
        with self.explained():
            try:
                self._blob(name).download_to_filename(str(path), if_generation_match=generation, retry=self._retry)
            except (exceptions.NotFound, exceptions.PreconditionFailed):
                return False
        return True

    def delete(self, name: str, generation: int | None = None) -> None:
        """Removes an object, or one version of it; nothing happens if it is not there."""
        from google.api_core import exceptions

        with self.explained(), contextlib.suppress(exceptions.NotFound, exceptions.PreconditionFailed):
            self._blob(name).delete(if_generation_match=generation, retry=self._retry)

    def read(self, name: str) -> tuple[bytes, int, datetime.datetime] | None:
        """An object's bytes, generation and time of writing; None if it is not there."""
        from google.api_core import exceptions

        blob = self._blob(name)
        with self.explained():
            try:
                blob.reload(retry=self._retry)
                generation, written = int(blob.generation), blob.updated
                # a fresh blob: one that was loaded asks for its generation, which is "not found" once it was replaced
                content = self._blob(name).download_as_bytes(if_generation_match=generation, retry=self._retry)
            except exceptions.NotFound:
                return None
            except exceptions.PreconditionFailed:  # written anew in between
                return self.read(name)
        return content, generation, written

    def generation(self, name: str) -> int:
        """The version of an object that is there, 0 for none."""
        from google.api_core import exceptions

        blob = self._blob(name)
        with self.explained():
            try:
                blob.reload(retry=self._retry)
            except exceptions.NotFound:
                return 0
        return int(blob.generation)

    def now(self) -> datetime.datetime:
        """The time of the storage's own clock, which is the one that objects are dated by."""
        blob = self._blob(CLOCK)
        with self.explained():
            blob.upload_from_string(b"", retry=self._retry)
        self.delete(CLOCK)
        return blob.updated

    def _blob(self, name: str) -> Any:
        return self._bucket.blob(f"{self.folder}/{name}")


class Lease:
    """The right to write below an address: an object that its holder writes anew every half minute.

    Storage compares generations before it writes, so of two processes that want it one gets it. A killed holder's lease
    ends by itself after LEASE_SECONDS.

    Args:
      bucket: where.
      owner: who, an identifier of a folder that only one process at a time uses: what it has left behind is its own.
    """

    def __init__(self, bucket: Bucket, owner: str):
        self.bucket, self.owner, self.generation = bucket, owner, 0
        self.lost, self._lock = False, threading.Lock()

    def take(self, say: Callable[[str], None]) -> None:
        """Waits until a dead holder's lease has ended.

        Raises:
          Taken: a living process has it.
        """
        from google.api_core.exceptions import PreconditionFailed

        seen: int | None = None
        while True:
            held, holder, left = self._held()
            if left <= 0:
                with contextlib.suppress(PreconditionFailed):  # somebody else was faster
                    self.generation = self.bucket.upload(LEASE, self._content(), held)
                    return
            elif seen is None:
                say(f"{self.bucket.address} is held by {holder}: waiting for a sign of life")
            elif held != seen:
                raise Taken(f"{holder} is working in {self.bucket.address}: wait for it, or choose another --workdir")
            seen = held if seen is None else seen
            time.sleep(min(max(left, 1.0), RENEW_SECONDS / 6))

    def renew(self) -> bool:
        """Writes it anew; False if another process has taken it.

        Raises:
          UserError: the bucket cannot be reached.
        """
        from google.api_core.exceptions import PreconditionFailed

        with self._lock:
            while not self.lost:
                try:
                    self.generation = self.bucket.upload(LEASE, self._content(), self.generation)
                    return True
                except PreconditionFailed:
                    found = self.bucket.read(LEASE)
                    if found and _read(found[0]).get("owner") == self.owner:
                        self.generation = found[1]  # an earlier request arrived, its answer did not
                    else:
                        self.lost = True
            return False

    def release(self) -> None:
        """Gives it back."""
        found = self.bucket.read(LEASE)
        if found and _read(found[0]).get("owner") == self.owner:
            self.bucket.delete(LEASE, found[1])

    def _held(self) -> tuple[int, str, float]:
        """Generation of the lease that is there, who holds it, and how many seconds it lives on without a renewal."""
        found = self.bucket.read(LEASE)
        holder = _read(found[0]) if found else {}
        if found is None or holder.get("owner") == self.owner:
            return found[1] if found else 0, "", 0.0
        left = LEASE_SECONDS - (self.bucket.now() - found[2]).total_seconds()
        return found[1], str(holder.get("who", "another process")), left

    def _content(self) -> bytes:
        return json.dumps({"owner": self.owner, "who": f"process {os.getpid()} on {socket.gethostname()}"}).encode()


class Repeated(threading.Thread):
    """Calls a function every so many seconds until it is stopped or the function returns False."""

    def __init__(self, function: Callable[[], bool], seconds: float):
        super().__init__(daemon=True)
        self._function, self._seconds, self._ended = function, seconds, threading.Event()

    def run(self) -> None:
        """See the class."""
        while not self._ended.wait(self._seconds) and self._function():
            pass

    def stop(self) -> None:
        """Returns when the last call has ended."""
        self._ended.set()
        self.join()


def _read(content: bytes) -> dict:
    try:
        found = json.loads(content)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _first_line(error: BaseException) -> str:
    details = getattr(error, "errors", None) or [{}]
    said = details[0].get("message") if isinstance(details[0], dict) else None
    text = said or (f"HTTP {error.code:d}" if hasattr(error, "code") else str(error))
    return next(iter(text.splitlines()), type(error).__name__)[:200]
