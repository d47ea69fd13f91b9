"""A stand-in for Google Cloud Storage on this machine: what the client library asks for, with generations and conditions."""

import base64
import contextlib
import datetime
import hashlib
import http.server
import itertools
import json
import threading
import urllib.parse
from dataclasses import dataclass, field

BUCKET = "bucket"


@dataclass
class Object:
    """A version of an object."""

    content: bytes
    generation: int
    kind: str
    updated: datetime.datetime


@dataclass
class Storage:
    """Objects of one bucket by name, and what went wrong on purpose.

    Attributes:
      refuse: whether a request (method, name) gets 403.
      before_reading: called with a name before its content is answered; true: look again.
      log: (method, name) of each write that was done.
      skew: seconds that its clock is ahead.
      begun: uploads in pieces by number.
    """

    objects: dict[str, Object] = field(default_factory=dict)
    refuse: object = lambda method, name: False
    before_reading: object = lambda name: False
    log: list = field(default_factory=list)
    skew: float = 0.0
    begun: dict = field(default_factory=dict)
    url: str = ""

    def __post_init__(self):
        self.lock, self.numbers = threading.Lock(), itertools.count(1000)

    def put(self, name, content, kind="", generation=None):
        """Writes an object where the condition holds; (HTTP code, description)."""
        with self.lock:
            there = self.objects.get(name)
            if generation is not None and generation != (there.generation if there else 0):
                return 412, {}
            self.log.append(("POST", name))
            now = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=self.skew)
            self.objects[name] = Object(content, next(self.numbers), kind, now)
            return 200, self.described(name)

    def described(self, name):
        """An object's resource in the JSON API."""
        import google_crc32c  # the client's own; its values are checked against nothing else here

        each = self.objects[name]
        return {
            "crc32c": base64.b64encode(google_crc32c.Checksum(each.content).digest()).decode(),
            "kind": "storage#object",
            "name": name,
            "bucket": BUCKET,
            "generation": str(each.generation),
            "size": str(len(each.content)),
            "contentType": each.kind,
            "mediaLink": f"{self.url}/download/storage/v1/b/{BUCKET}/o/{urllib.parse.quote(name, safe='')}"
            f"?generation={each.generation}&alt=media",
            "updated": each.updated.isoformat().replace("+00:00", "Z"),
            "md5Hash": base64.b64encode(hashlib.md5(each.content).digest()).decode(),
        }

    def files(self, folder):
        """Name -> content below a folder."""
        return {
            name.removeprefix(f"{folder}/"): each.content
            for name, each in sorted(self.objects.items())
            if name.startswith(f"{folder}/")
        }


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers as the JSON API does; `storage` is that of the server."""

    protocol_version = "HTTP/1.1"

    @property
    def storage(self):
        """What the requests are about."""
        return self.server.storage

    def log_message(self, *_):
        pass

    def do_GET(self):
        name, query = self.parsed()
        if name is None:
            self.answer(200, {"kind": "storage#bucket", "name": BUCKET, "location": "EU"})
        elif name == "":
            found = [self.storage.described(each) for each in self.storage.objects if each.startswith(query["prefix"])]
            self.answer(200, {"kind": "storage#objects", "items": found})
        elif name not in self.storage.objects:
            self.answer(404, {})
        elif query.get("alt") == "media" and self.storage.before_reading(name):
            self.do_GET()
        elif query.get("generation", "") not in ("", str(self.storage.objects[name].generation)):
            self.answer(404, {})  # there are no old versions
        elif query.get("ifGenerationMatch", "") not in ("", str(self.storage.objects[name].generation)):
            self.answer(412, {})
        elif query.get("alt") == "media":
            self.answer(200, self.storage.objects[name].content)
        else:
            self.answer(200, self.storage.described(name))

    def do_POST(self):
        _, query = self.parsed()
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if query["uploadType"] == "resumable":  # the content comes in pieces, by PUT
            number = str(next(self.storage.numbers))
            self.storage.begun[number] = json.loads(body)["name"], query.get("ifGenerationMatch"), bytearray()
            return self.answer(
                200, {}, Location=f"{self.storage.url}/upload/storage/v1/b/{BUCKET}/o?upload_id={number}"
            )
        boundary = self.headers["Content-Type"].split("boundary=")[1].strip('"').encode()
        _, facts, part, _ = body.split(b"--" + boundary)
        name = json.loads(facts.partition(b"\r\n\r\n")[2])["name"]
        if self.storage.refuse("POST", name):
            return self.answer(403, {})
        wanted = query.get("ifGenerationMatch")
        head, _, content = part.partition(b"\r\n\r\n")
        kind = head.decode().partition(":")[2].strip()
        content = content.removesuffix(b"\r\n")
        return self.answer(*self.storage.put(name, content, kind, None if wanted is None else int(wanted)))

    def do_PUT(self):
        _, query = self.parsed()
        name, wanted, content = self.storage.begun[query["upload_id"]]
        content += self.rfile.read(int(self.headers["Content-Length"]))
        if not self.headers["Content-Range"].endswith(f"/{len(content)}"):
            return self.answer(308, b"", Range=f"bytes=0-{len(content) - 1}")
        return self.answer(*self.storage.put(name, bytes(content), "", None if wanted is None else int(wanted)))

    def do_DELETE(self):
        name, query = self.parsed()
        if self.storage.refuse("DELETE", name):
            return self.answer(403, {})
        with self.storage.lock:
            there = self.storage.objects.get(name)
            if there is None:
                return self.answer(404, {})
            if query.get("ifGenerationMatch", "") not in ("", str(there.generation)):
                return self.answer(412, {})
            self.storage.log.append(("DELETE", name))
            del self.storage.objects[name]
        return self.answer(204, b"")

    def parsed(self):
        """The object's name, "" for the bucket's list, None for the bucket, and the query."""
        split = urllib.parse.urlsplit(self.path)
        query = dict(urllib.parse.parse_qsl(split.query))
        words = split.path.partition("/b/")[2].split("/", 2)
        if words[0] != BUCKET:
            return "?", query
        if len(words) == 1:
            return None, query
        return urllib.parse.unquote(words[2]) if len(words) > 2 else "", query

    def answer(self, code, content, **headers):
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(code)
        kind = "application/octet-stream" if isinstance(content, bytes) else "application/json"
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)


@contextlib.contextmanager
def served():
    """A Storage that is reachable at its `url` (for $STORAGE_EMULATOR_HOST)."""
    storage = Storage()
    server = http.server.ThreadingHTTPServer(("localhost", 0), Handler)
    server.daemon_threads, server.storage = True, storage
    threading.Thread(target=server.serve_forever, daemon=True).start()
    storage.url = f"http://localhost:{server.server_port}"
    try:
        yield storage
    finally:
        server.shutdown()
        server.server_close()
