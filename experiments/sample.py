"""Makes new samples with a trained run: `python -m experiments.sample --workdir=runs/char_lstm --length=1000`.

Text appears on the terminal while it is written; everything made lies in the run folder's samples/ afterwards.
"""

import pathlib
import sys
from collections.abc import Callable
from dataclasses import dataclass

from experiments import cli
from experiments.flags import option
from experiments.session import DataPlace
from jaxdl.errors import UserError

MOST_SAMPLES = 10_000


@dataclass(frozen=True)
class SampleOptions:
    """What to make."""

    data: DataPlace = DataPlace()
    count: int = option(
        1, "how many samples (a family that draws grids of pictures may draw more)", minimum=1, maximum=MOST_SAMPLES
    )
    length: int | None = option(
        None,
        "text: characters to write after the prompt (where not set: 500); agents: steps of an episode at most; RBM: "
        "rounds of Gibbs sampling (at least 1000)",
        minimum=1,
        maximum=1_000_000,
    )
    temperature: float = option(1.0, "text: below 1 safer, above 1 bolder; 0: the most probable character", minimum=0.0)
    top_k: int = option(0, "text: choose among the k most probable characters only; 0: all", minimum=0)
    top_p: float = option(
        1.0, "text: choose among the most probable characters that hold this share", minimum=1e-6, maximum=1.0
    )
    prompt: str = option("", "text: what the sample begins with")
    seed: int = option(0, "seed of the samples", minimum=0, maximum=2**31 - 1)


@dataclass(frozen=True)
class SampleRequest:
    """What a recipe's `sample` is asked for; the first eight as the flags of the same names.

    Attributes:
      folder: where files go; it exists.
      emit: shows text on the terminal at once.
    """

    folder: pathlib.Path
    emit: Callable[[str], None]
    count: int = 1
    length: int | None = None
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    prompt: str = ""
    seed: int = 0


BINARY = cli.Binary(
    program="sample",
    summary="Makes new samples with a trained run (of several seeds the first) and writes them to its samples/.",
    flags=("workdir",),
    options=SampleOptions,
    smaller="--count or --length",
)


def main(arguments: cli.Arguments) -> int:
    """Makes samples; what it looks like is the recipe's business."""
    from experiments.reporting import View
    from experiments.session import judged_folders, open_run
    from jaxdl.engine.folder import RunFolder

    flags = arguments.flags
    session = open_run(flags.workdir, getattr(flags, "data.dir"))
    if session.experiment.sample is None:
        raise UserError(f"recipe {session.recipe.title} makes no samples: it is no generative model")
    folders = [RunFolder(path) for _, path in judged_folders(flags.workdir)]
    view = View(session, folders, [folder.read_json("record.json") for folder in folders], [[] for _ in folders])
    target = pathlib.Path(flags.workdir) / "samples"
    names = ("count", "length", "temperature", "top_k", "top_p", "prompt", "seed")
    try:
        target.mkdir(parents=True, exist_ok=True)
        session.experiment.sample(view, SampleRequest(target, emit, **{name: getattr(flags, name) for name in names}))
    except OSError as error:
        raise UserError(f"{target} cannot be written: {error.strerror or error}") from error
    print(f"written to {arguments.shown(target)}", flush=True)
    return 0


def emit(text: str) -> None:
    """Shows text at once, without a line break of its own."""
    sys.stdout.write(text)
    sys.stdout.flush()


if __name__ == "__main__":
    cli.run(main, BINARY)
