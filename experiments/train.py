"""Trains a recipe to a report, or resumes where it was: `python -m experiments.train [--recipe=NAME] [flags]`."""

import dataclasses
import io
import os
import shutil
import sys
from typing import Any

from experiments import cli
from experiments.flags import UsageError
from jaxdl.errors import UserError

SMOKE_ROWS = 128
FLAGS = (
    "recipe",
    "workdir",
    "overwrite",
    "seed",
    "seeds",
    "seeds_mode",
    "parallel",
    "fsdp",
    "model_parallel",
    "precision",
    "init_from",
    "deterministic",
    "processes",
    "distributed",
    "smoke",
    "check",
)
BINARY = cli.Binary(
    program="train",
    summary="Trains a recipe's experiment and writes a run folder with its report. A second call resumes.",
    flags=FLAGS,
    default_recipe="lenet5",
    trains=True,
)


def main(arguments: cli.Arguments) -> int:
    """Trains; returns the exit code: 0, 1 if a loss was not finite, 75 after SIGTERM or Ctrl-C."""
    from jaxdl.engine import processes

    flags = arguments.flags
    if flags.distributed == "off":
        if flags.processes > 1:
            raise UsageError("--processes starts several processes and --distributed=off keeps them apart: give one")
    elif flags.processes > 1 and processes.COORDINATOR not in os.environ:
        from experiments.spawn import spawn

        return spawn(arguments, flags.processes)
    elif processes.expected():
        from experiments.spawn import end_with_parent

        end_with_parent()
        processes.join()
    from experiments.session import folder_to_train

    workdir = flags.workdir or f"runs/{'smoke/' if flags.smoke else ''}{arguments.recipe.folder}"
    if flags.smoke and not flags.workdir and processes.is_first():
        shutil.rmtree(workdir, ignore_errors=True)
    with folder_to_train(workdir, flags.overwrite) as place:
        return _train(arguments, workdir, place)


def _train(arguments: cli.Arguments, workdir: str, place: str) -> int:
    from experiments.reporting import header, result_block
    from experiments.session import open_recipe
    from jaxdl.engine import processes
    from jaxdl.engine.options import Options, choose_layout
    from jaxdl.engine.signals import EXIT_INTERRUPTED, Interrupted

    flags = arguments.flags
    config = smoke(arguments.config) if flags.smoke else arguments.config
    session = open_recipe(arguments.recipe, config, flags.precision, flags.init_from)
    if flags.smoke:
        session = dataclasses.replace(session, experiment=shortened(session.experiment))
    options = Options(
        workdir=place,
        seed=flags.seed,
        seeds=flags.seeds,
        seeds_mode=flags.seeds_mode,
        parallel=flags.parallel,
        fsdp=flags.fsdp,
        model_parallel=flags.model_parallel,
        precision=flags.precision,
        overwrite=flags.overwrite,
        command=arguments.command,
    )
    # says here already what the devices cannot do
    layout = choose_layout(session.experiment, options, options.seeds or 1)
    if processes.is_first():
        header(session, dataclasses.replace(options, workdir=workdir), layout)
    if flags.check and processes.is_first():
        from experiments.checks import run_checks

        whole = open_recipe(arguments.recipe, arguments.config, flags.precision) if flags.smoke else session
        run_checks(whole.experiment, flags.seed)
    try:
        run = trained(session, options, workdir)
    except Interrupted:
        processes.leave()
        print(f"interrupted: the same command goes on from here ({workdir})", file=sys.stderr)
        return EXIT_INTERRUPTED
    if not processes.is_first():
        return 1 if any(record["status"] == "diverged" for record in run.records) else 0
    result_block(session, run)
    return 1 if say_diverged(run) else 0


def trained(session: Any, options: Any, workdir: str = "") -> Any:
    """Trains (or resumes, or finds finished) with a live line and writes the report; the `jaxdl.engine.fit.Run`.

    Args:
      session: what is trained.
      options: how, and in which folder.
      workdir: what people know the folder as; "": as itself.

    Raises:
      Interrupted: after SIGTERM or Ctrl-C, with the state saved.
    """
    from experiments.reporting import write_reports
    from jaxdl.engine import processes
    from jaxdl.engine.fit import fit

    watcher = live_line(session.experiment, sys.stdout if processes.is_first() else io.StringIO())
    try:
        run = fit(session.experiment, session.leaves, options, watcher)
    finally:
        watcher.close()
    processes.leave()
    if not processes.is_first():
        return run
    if not run.fresh:
        print(f"{workdir or options.workdir} is finished: nothing to do (--overwrite starts it anew)")
    if run.fresh or not (run.folder.path / "report.html").exists():
        write_reports(session, run)
    return run


def say_diverged(run: Any) -> bool:
    """Names the seeds of a run that diverged; whether there are any."""
    diverged = [record for record in run.records if record["status"] == "diverged"]
    for record in diverged:
        print(
            f"error: seed {record['seed']} diverged: its loss was not finite at step {record['steps']}; the last good "
            "checkpoint is kept; try a smaller --optimizer.learning_rate or --optimizer.clip_norm=1",
            file=sys.stderr,
        )
    return bool(diverged)


def live_line(experiment: Any, stream: Any = None) -> Any:
    """The engine's watcher: one live line, with the newest training and validation numbers together."""
    from jaxdl.engine.progress import Progress

    newest: dict[str, float] = {}

    class Live(Progress):
        def compiled(self, found):
            phase = f"phase {found.phase}: " if len(experiment.phases) > 1 else ""
            if found.seconds >= 0.05:  # less: a sweep's cell with the programs of the one before
                self.say(f"{phase}{found.parameters:,} parameters, compiled in {found.seconds:.1f} s")
            self.peak_items = most_items(found)

        def update(self, step, total, metrics, items_per_second=0.0):
            if step < self._step:  # the next seed
                newest.clear()
            newest.update({name: value for name, value in metrics.items() if "_norm/" not in name})
            super().update(step, total, newest, items_per_second)

    return Live(stream or sys.stdout, items=experiment.items)


def most_items(found: Any) -> float:
    """Items a second, of all seeds together, at the devices' peak, for the MFU; 0 where no peak is known (CPUs) or each seed
    has a device to itself.

    Operations are XLA's count of a step, which takes inner loops' bodies once.
    """
    import jax

    from experiments.mfu import known_peak

    peak = known_peak(jax.local_devices()[0].device_kind)
    try:
        costs = found.program.cost_analysis() if peak and hasattr(found.program, "cost_analysis") else None
    except (NotImplementedError, jax.errors.JaxRuntimeError):  # a backend that counts nothing
        return 0.0
    flops = float((costs[0] if isinstance(costs, list) else costs or {}).get("flops", 0.0))
    return peak.flops * found.items / flops if peak and flops > 0 else 0.0


def smoke(config: Any) -> Any:
    """The same experiment in a few steps: everything happens, nothing is learnt."""
    if not hasattr(config, "train"):
        raise UserError("this recipe has no train settings, so --smoke does not know how to shorten it")
    train = dataclasses.replace(
        config.train,
        steps=min(config.train.steps, 6),
        log_every=2,
        eval_every=3,
        checkpoint_every=3,
        batch_size=min(config.train.batch_size, 32),
        eval_batch_size=min(config.train.eval_batch_size, 64),
    )
    config = dataclasses.replace(config, train=train)
    data: Any = getattr(config, "data", None)
    if hasattr(data, "limit"):
        data = dataclasses.replace(data, limit=data.limit or 256)
    if hasattr(data, "length"):
        data = dataclasses.replace(data, length=min(data.length, 64))
    if data is not None:
        config = dataclasses.replace(config, data=data)
    return config


def shortened(experiment: Any) -> Any:
    """No phase longer than the last one of a smoke run, and only the first rows of each evaluation."""
    from jaxdl.data.source import Resident

    def first_rows(source: Any) -> Any:
        source = source.replace(size=min(source.size, SMOKE_ROWS))
        if isinstance(source, Resident):  # of one length, so that one program evaluates all of them
            first = {name: array[: source.size] for name, array in source.arrays.items()}
            return dataclasses.replace(source, arrays=first)
        return source

    def all_first_rows(sources: Any) -> dict[str, Any]:
        return {name: first_rows(source) for name, source in sources.items()}

    phases = tuple(
        dataclasses.replace(
            phase, steps=min(phase.steps, experiment.train.steps), evaluations=all_first_rows(phase.evaluations)
        )
        for phase in experiment.phases
    )
    return dataclasses.replace(experiment, phases=phases, final=all_first_rows(experiment.final))


if __name__ == "__main__":
    cli.run(main, BINARY)
