"""Downloads and prepares a data set: python -m experiments.prepare --dataset=mnist

With the source files at hand, and no network: --manual_dir=DIR. Where the set goes: --data.dir=DIR, else
$TFDS_DATA_DIR, else the user's cache.
"""

from dataclasses import dataclass

from experiments import cli
from experiments.flags import UsageError, option
from experiments.session import PreparedPlace
from jaxdl.data.prepare import PREPARABLE, prepare


@dataclass(frozen=True)
class PrepareOptions:
    """Flags of its own."""

    dataset: str = option("", f"the set to prepare: {', '.join(PREPARABLE)}")
    data: PreparedPlace = PreparedPlace()
    manual_dir: str = option("", "folder that holds the source files; where not set they are downloaded")


BINARY = cli.Binary(
    program="prepare",
    summary="Downloads a data set once and prepares it for all runs; from files at hand with --manual_dir.",
    options=PrepareOptions,
    smaller="what else runs here",
)


def main(arguments: cli.Arguments) -> int:
    """Prepares one set and says where it lies.

    Raises:
      UsageError: no data set is named.
      UserError: none of that name is known, or it cannot be downloaded, read or written.
    """
    flags = arguments.flags
    if not flags.dataset:
        raise UsageError(f"--dataset=NAME is missing; NAME is one of {', '.join(PREPARABLE)}")
    megabytes = PREPARABLE.get(flags.dataset, ("", 0))[1]
    if not flags.manual_dir and megabytes:
        print(f"{flags.dataset}: {megabytes} MB are downloaded where it is not prepared yet", flush=True)
    print(prepare(flags.dataset, getattr(flags, "data.dir"), flags.manual_dir))
    return 0


if __name__ == "__main__":
    cli.run(main, BINARY)
