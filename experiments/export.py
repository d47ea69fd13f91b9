"""Writes a trained run as files that need no jaxdl: `python -m experiments.export --workdir=runs/lenet5`.

Into the run folder's export/ (over seeds, into that of each seed):

    parameters.safetensors   the reported parameters by name
    predict.jax_export       what the network computes of them and of a batch, for `jax.export.deserialize`
    export.json              inputs, outputs, platforms, versions, the run's digest
"""

import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from experiments import cli
from experiments.flags import option
from experiments.session import DataPlace
from jaxdl.errors import UserError

PARAMETERS, PROGRAM, FACTS = "parameters.safetensors", "predict.jax_export", "export.json"
PLATFORMS = ("cpu", "cuda", "tpu")


@dataclass(frozen=True)
class ExportOptions:
    """What the program is made for."""

    data: DataPlace = DataPlace()
    platforms: tuple[str, ...] = option(
        PLATFORMS, "what the program shall run on, any number of them", choices=(*PLATFORMS, "rocm")
    )
    batch_size: int = option(
        0, "examples of one call; 0: any number, or 1 where the network must know it", minimum=0, maximum=1_000_000
    )


BINARY = cli.Binary(
    program="export",
    summary="Writes a run's reported parameters (safetensors) and what its network computes (jax.export, StableHLO) to "
    "export/ in its run folder; they are read without jaxdl.",
    flags=("workdir",),
    options=ExportOptions,
    smaller="--batch_size",
)


def main(arguments: cli.Arguments) -> int:
    """Writes export/ and says how to call what is in it."""
    missing = [name for name in ("flatbuffers", "safetensors") if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(f"export needs {' and '.join(missing)}: pip install -e '.[export]'")
    if not arguments.flags.platforms:
        raise UserError("--platforms names none: leave it out for cpu, cuda and tpu in one file")
    from experiments.session import judged_folders, open_run
    from jaxdl.engine.folder import RunFolder

    flags = arguments.flags
    platforms = tuple(dict.fromkeys(flags.platforms))
    session = open_run(flags.workdir, getattr(flags, "data.dir"))
    facts: dict[str, Any] = {}
    for _, path in judged_folders(flags.workdir):
        facts = write(session, RunFolder(path), platforms, flags.batch_size)
        print(f"written to {arguments.shown(path / 'export')}", flush=True)
    if facts.get("batch_size") == 1 != flags.batch_size:
        print("the network must know how many examples it gets: this is for 1, --batch_size=N is for N")
    print(usage(facts))
    return 0


def write(session: Any, folder: Any, platforms: tuple[str, ...], batch_size: int) -> dict[str, Any]:
    """Writes one run's export/; what export.json says.

    Raises:
      UserError: the run has no whole checkpoint, its network cannot be exported, or the folder cannot be written.
    """
    import jax
    from safetensors.numpy import save

    from jaxdl.engine.compiled import one_seed
    from jaxdl.engine.digest import digest
    from jaxdl.engine.export import export, parameters, serving
    from jaxdl.engine.fit import load_judged_at
    from jaxdl.engine.folder import RunFolder

    phase, record = session.experiment.phases[-1], folder.read_json("record.json") or {}
    state, step = load_judged_at(session.experiment, folder)
    held = parameters(state)
    facts: dict[str, Any] = {
        "recipe": session.recipe.title,
        "seed": record.get("seed"),
        "status": record.get("status"),
        "steps": step,
        "params_digest": digest({name: one.params for name, one in one_seed(state).nets.items()}),
        "versions": {"jax": jax.__version__},
    }
    served = serving(phase.task, {**session.experiment.final, **phase.evaluations})
    if served is not None:
        found = export(phase.task, state, served, platforms, batch_size)
        facts |= {
            "batch_size": found.batch_size or "any",
            "platforms": list(found.artifact.platforms),
            "inputs": {
                name: [str(found.batch_size or "B"), *map(str, each.shape), each.dtype.name]
                for name, each in found.inputs.items()
            },
            "outputs": outputs(found.artifact),
            "calling_convention_version": found.artifact.calling_convention_version,
        }
    told = {name: str(facts[name]) for name in ("recipe", "seed", "steps", "params_digest")}
    target = RunFolder(folder.path / "export")
    target.write_bytes(PARAMETERS, save(held, metadata=told))
    if served is None:
        (target.path / PROGRAM).unlink(missing_ok=True)
    else:
        target.write_bytes(PROGRAM, found.content)
    target.write_json(FACTS, facts)
    return facts


def outputs(artifact: Any) -> dict[str, list[str]]:
    """Name -> shape and type of what an exported function returns, ["B", "10", "float32"]."""
    import jax

    described = jax.tree.unflatten(artifact.out_tree, artifact.out_avals)
    return {name: [*map(str, each.shape), each.dtype.name] for name, each in described.items()}


def usage(facts: Mapping[str, Any]) -> str:
    """How to call what was exported."""
    if "inputs" not in facts:
        return f"only {PARAMETERS}: this recipe has no function of a batch to export"
    given = ", ".join(f'"{name}": {_shape(each)}' for name, each in facts["inputs"].items())
    lines = [
        "import pathlib",
        "from jax import export",
        "from safetensors.numpy import load_file",
        f'parameters = load_file("{PARAMETERS}")',
        f'predict = export.deserialize(pathlib.Path("{PROGRAM}").read_bytes())',
        f"outputs = predict.call(parameters, {{{given}}})",
        *(f"# {name}: {_shape(each)}" for name, each in facts["outputs"].items()),
    ]
    return "\n".join(["To use it, in that folder:", "", *(f"    {line}" for line in lines)])


def _shape(described: list[str]) -> str:
    *shape, dtype = described
    return f"{dtype}[{', '.join(shape)}]"


if __name__ == "__main__":
    cli.run(main, BINARY)
