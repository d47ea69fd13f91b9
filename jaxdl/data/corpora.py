"""Texts that come with Python itself: the standard library's source and the help texts of `pydoc`."""

import importlib.util
import sys

from jaxdl.errors import UserError

# modules that every Python from 3.11 on has as source, 20 to 120 kB each
STDLIB_MODULES = (
    "argparse", "ast", "asyncio.base_events", "bdb", "calendar", "codeop", "configparser", "contextlib", "copy",
    "csv", "dataclasses", "difflib", "dis", "doctest", "email.header", "fractions", "ftplib", "functools", "gettext",
    "gzip", "heapq", "html.parser", "http.client", "imaplib", "inspect", "ipaddress", "json.decoder", "linecache",
    "locale", "logging", "logging.handlers", "mimetypes", "optparse", "pdb", "pickle", "platform", "plistlib",
    "pprint", "queue", "random", "reprlib", "shelve", "shutil", "smtplib", "socketserver", "statistics", "string",
    "tempfile", "textwrap", "timeit", "trace", "traceback", "unittest.case", "urllib.parse", "urllib.request",
    "uuid", "weakref", "webbrowser", "xml.dom.minidom", "zipfile",
)  # fmt: skip


def stdlib_version() -> str:
    """Version of the running Python as "x.y.z": another Python has another library."""
    return ".".join(map(str, sys.version_info[:3]))


def stdlib_documents() -> dict[str, str]:
    """Module name -> its source without the lines that are not ASCII, for those of STDLIB_MODULES that are there.

    Raises:
      UserError: this Python comes without its library's source.
    """
    found = {}
    for name in STDLIB_MODULES:
        source = _source(name)
        if source:
            found[name] = _ascii_lines(source)
    if len(found) < len(STDLIB_MODULES) // 2:
        raise UserError("this Python has no source of its standard library; choose --data.name=pydoc_topics")
    return found


def pydoc_documents() -> dict[str, str]:
    """Topic -> Python's reference in English, as `help("topic")` prints it."""
    from pydoc_data.topics import topics

    return {name: _ascii_lines(text) for name, text in topics.items()}


def _source(name: str) -> str | None:
    try:
        spec = importlib.util.find_spec(name)
        return spec.loader.get_source(name) if spec and spec.loader else None  # type: ignore[attr-defined]
    except (ImportError, AttributeError, OSError, UnicodeDecodeError):
        return None


def _ascii_lines(text: str) -> str:
    lines = [line.rstrip().expandtabs(4) for line in text.splitlines()]
    kept = [line for line in lines if line.isascii() and (line.isprintable() or not line)]
    return "\n".join(kept).strip("\n") + "\n\n"
