"""The end of a run: what is measured once, of the reported networks."""

from typing import TYPE_CHECKING, Any

from jaxdl.engine import processes
from jaxdl.engine.judged import judged_metrics, last_training_metrics, split_rows
from jaxdl.engine.payload import host_copies
from jaxdl.engine.program import means
from jaxdl.engine.record import Trained
from jaxdl.engine.signals import Interrupted
from jaxdl.engine.transfer import averaged, with_nets

if TYPE_CHECKING:
    from jaxdl.engine.loop import _Run


def finish(run: "_Run") -> Trained:
    """The final metrics of the reported parameters, each split evaluated once, while checkpoints are written.

    Raises:
      Interrupted: after a signal, with everything saved.
      UserError: a checkpoint could not be written.
    """
    try:
        metrics, final = _evaluated(run)
    finally:
        run.written()
    copies: Any = run.copies or host_copies(run.layout, run.state, run.best)
    judged = with_nets(*copies) if run.keeps_best() else averaged(copies[0])
    for i in filter(run.position.alive, range(len(run.seeds))):
        _stop_where_asked(run)
        final[i] |= judged_metrics(run.experiment, judged, i, run.seeds[i], run.program.template)
        step = run.position.best_step[i] if run.keeps_best() else run.position.global_step(i)
        rows = [{"step": step, "phase": run.phase.name, **row} for row in split_rows(final[i])]
        run.folders[i].append_rows(rows)
    settled = run.settled()
    return Trained(
        position=run.position,
        state=copies[0],
        judged=judged,
        metrics=[found | ended for found, ended in zip(metrics, final, strict=True)],
        items_per_second=run.rate,
        seconds=settled.elapsed,
        compile_seconds=settled.compile,
        objective=run.phase.objective[0] if run.phase.objective else None,
    )


def _evaluated(run: "_Run") -> tuple[list[dict[str, float]], list[dict[str, float]]]:
    """Each seed's metrics of training and validation, and those of the final splits."""
    state = run.program.judged(run.state, run.best) if run.keeps_best() else run.state
    metrics = [last_training_metrics(folder) for folder in run.folders]
    final: list[dict[str, float]] = [{} for _ in run.seeds]
    splits = {**run.phase.evaluations, **run.experiment.final}
    measured = [_measured(run, i) for i in range(len(run.seeds))]
    if None not in measured:
        metrics = [values | (found or {}) for values, found in zip(metrics, measured, strict=True)]
        splits = dict(run.experiment.final)
    for split, source in splits.items():
        _stop_where_asked(run)
        sums = run.program.evaluate(state, run.trainer.stager.evaluation(source), run.evaluation_keys)
        for i, found in enumerate(final if split in run.experiment.final else metrics):
            found.update({f"{split}/{name}": value for name, value in means(sums, i).items()})
    return metrics, final


def _measured(run: "_Run", i: int) -> dict[str, float] | None:
    """Metrics of the phase's splits that training has found of what is now reported of seed `i`; None if it has not."""
    position = run.position
    if not position.alive(i):
        return {}
    history = [found[i] for found in position.history]
    if run.phase.objective is None or not run.keeps_best():
        return history[-1] if history else None
    best, name = position.best_value[i], run.phase.objective[0]
    # a later evaluation with an equal value was no better
    return next((found for found in history if best is not None and found.get(name) == best), None)


def _stop_where_asked(run: "_Run") -> None:
    if processes.agree(run.signals.pending)[0]:
        raise Interrupted
