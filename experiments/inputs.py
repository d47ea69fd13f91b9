"""What --input may name: a file, or the thing itself."""

import os
from pathlib import Path

from jaxdl.errors import UserError


def named_file(given: str) -> Path | None:
    """The file that `given` names; None where there is none, and it is to be read itself.

    Raises:
      UserError: it names a folder, or ends as a text file does and there is none.
    """
    if os.path.isdir(given):
        raise UserError(f"--input={given} is a folder: give a file in it")
    if os.path.isfile(given):  # unlike Path.is_file no error for a text that is too long for a name
        return Path(given)
    if given.endswith((".txt", ".csv", ".tsv", ".md")):
        raise UserError(f"--input={given}: there is no such file")
    return None


def file_text(path: Path) -> str:
    """All of a text file.

    Raises:
      UserError: it cannot be read, or is no UTF-8 text.
    """
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is no text file that can be read ({error}): save it as UTF-8") from error
