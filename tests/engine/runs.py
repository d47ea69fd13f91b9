"""Runs of the tiny experiments and what is compared of them."""

import json
import os
import pathlib
import signal

from jaxdl.engine.fit import Options, fit
from jaxdl.engine.signals import Interrupted
from jaxdl.engine.watcher import Silent

TIMES = ("wall_time_s", "compile_time_s", "items_per_second")


def leaves(experiment):
    """A config.json for an experiment."""
    return {"recipe": experiment.name, "train.steps": experiment.train.steps}


def train(experiment, folder, watcher=None, config=None, **options):
    """`fit` with the leaves that an experiment of its kind has."""
    return fit(experiment, config or leaves(experiment), Options(str(folder), **options), watcher)


def record(folder):
    """record.json without times."""
    found = json.loads((pathlib.Path(folder) / "record.json").read_text())
    return {name: value for name, value in found.items() if name not in TIMES}


def result(folder):
    """What two runs that are the same have in common: digests, metrics, rows."""
    found = record(folder)
    names = ("status", "seed", "steps", "metrics", "best", "params_digest", "state_digest")
    return {name: found[name] for name in names}, (pathlib.Path(folder) / "metrics.jsonl").read_text()


def files(folder):
    """All of a run's files that may not differ between an interrupted and an uninterrupted run."""
    folder = pathlib.Path(folder)
    names = sorted(path.name for path in folder.iterdir() if path.name != ".lock")
    texts = {name: (folder / name).read_text() for name in ("config.json", "metrics.jsonl")}
    return names, texts, record(folder), checkpoints(folder)


def checkpoints(folder):
    """Names below checkpoints/, as numbers where they are steps."""
    names = [path.name for path in (pathlib.Path(folder) / "checkpoints").glob("*")]
    return sorted(
        (int(name) if name.isdigit() else name for name in names), key=lambda name: (isinstance(name, str), name)
    )


def rows(folder):
    """metrics.jsonl as dicts."""
    return [json.loads(line) for line in (pathlib.Path(folder) / "metrics.jsonl").read_text().splitlines()]


class Listener(Silent):
    """Keeps what is said, and sends this process a signal at the first update at or after `stop_at`."""

    def __init__(self, stop_at=None, number=signal.SIGTERM):
        self.lines, self.steps, self.stop_at, self.number = [], [], stop_at, number
        self.found = []

    def compiled(self, found):
        self.found.append(found)

    def update(self, step, total, metrics, items_per_second):
        self.steps.append(step)
        if self.stop_at is not None and step >= self.stop_at:
            self.stop_at = None
            os.kill(os.getpid(), self.number)

    def say(self, line):
        self.lines.append(line)


def interrupt(experiment, folder, at, **options):
    """Trains until the first update at or after step `at`, then stops on a signal as a user would."""
    try:
        train(experiment, folder, Listener(at), **options)
    except Interrupted:
        return
    raise AssertionError("the run ended before it was interrupted")
