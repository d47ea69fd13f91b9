"""Downloads and prepares a data set: python -m experiments.prepare --dataset=mnist

With the source files at hand, and no network: --manual_dir=DIR. Where the set goes: --data.dir=DIR, else
$TFDS_DATA_DIR, else the user's cache.
"""

import sys

from absl import app, flags

from jaxdl.data.prepare import PREPARABLE, prepare
from jaxdl.errors import UserError

_DATASET = flags.DEFINE_string("dataset", None, f"the set to prepare: {', '.join(PREPARABLE)}")
_DATA_DIR = flags.DEFINE_string("data.dir", "", "folder of prepared sets ('': $TFDS_DATA_DIR, else the user's cache)")
_MANUAL_DIR = flags.DEFINE_string("manual_dir", "", "folder that holds the source files; '': download them")
_DEBUG = flags.DEFINE_bool("debug", False, "show the traceback of an error")


def main(argv: list[str]) -> int:
    """Returns the exit code."""
    if len(argv) > 1 or not _DATASET.value:
        what = f"unexpected argument {argv[1]!r}" if len(argv) > 1 else "--dataset=NAME is missing"
        print(f"error: {what}; NAME is one of {', '.join(PREPARABLE)}", file=sys.stderr)
        return 2
    name = _DATASET.value
    if not _MANUAL_DIR.value and PREPARABLE.get(name, ("", 0))[1]:
        print(f"{name}: {PREPARABLE[name][1]} MB are downloaded where it is not prepared yet", flush=True)
    try:
        print(prepare(name, _DATA_DIR.value, _MANUAL_DIR.value))
    except UserError as error:
        if _DEBUG.value:
            raise
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    app.run(main)
