"""Sweeps in forked children, some killed, some side by side: `python sweep_killed.py FOLDER`; prints one JSON.

The modules are imported once, here, but each child starts its own JAX.
"""

import contextlib
import json
import os
import pathlib
import random
import signal
import sys
import time
from types import SimpleNamespace

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "engine"))
sys.path.insert(0, str(pathlib.Path(__file__).parent))
sys.path.insert(0, str(pathlib.Path(__file__).parents[2]))

import sweep_recipes.tiny_line  # noqa: F401
import sweep_stub

import experiments.sweep_table  # noqa: F401
from experiments import cli, sweep, sweep_worker
from experiments.sweep_cells import Cell
from jaxdl.engine.signals import Signals

GRID = ["--grid=optimizer.learning_rate=0.01,0.02,0.03,0.04"]
KILLS = [signal.SIGKILL, signal.SIGTERM, signal.SIGKILL, signal.SIGKILL, signal.SIGKILL]


def start(words, slow=0.0):
    """A forked child that sweeps; its pid and what it prints."""
    read, write = os.pipe()
    child = os.fork()
    if child:
        os.close(write)
        return child, os.fdopen(read)
    os.dup2(write, 1)
    sys.stdout = os.fdopen(1, "w", buffering=1)
    if slow:
        live_line = sweep_worker.live_line

        def slowed(experiment):
            watcher = live_line(experiment)
            update = watcher.update
            watcher.update = lambda *args: (time.sleep(slow), update(*args))
            return watcher

        sweep_worker.live_line = slowed
    code = 1
    try:
        code = cli.execute(sweep.main, sweep_stub.BINARY, ["sweep", "--recipe=tiny_line", *words])
    finally:
        sys.stdout.flush()
        os._exit(code)


def code_of(child):
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def cells(folder):
    """sweep.json's cells and order, which may not depend on what happened on the way."""
    found = json.loads((folder / "sweep.json").read_text())
    return found["cells"], found["order"], found["best"]


def finished(folder):
    """record.json of each seed that has ended, and when it was written."""
    found = {}
    for path in folder.glob("*/seed*/record.json"):
        with contextlib.suppress(ValueError):
            if json.loads(path.read_text())["status"] == "done":
                found[str(path)] = path.stat().st_mtime_ns
    return found


def killed(root):
    """A sweep undisturbed, and one killed at random moments while it trains."""
    words = ["--seeds=2", *GRID]
    child, lines = start([*words, f"--workdir={root / 'whole'}"])
    list(lines)
    code_of(child)
    events, touched = [], []
    for number in KILLS:
        before = finished(root / "parts")
        child, lines = start([*words, f"--workdir={root / 'parts'}"], slow=0.02)
        begun = 0
        for line in lines:
            begun += line.startswith("seed ")
            if begun == 2:  # one is done, so that each restart finds more to leave alone
                break
        time.sleep(random.random() * 0.3)
        os.kill(child, number)
        events.append({"code": code_of(child), "finished": len(before)})
        touched += [path for path, when in before.items() if finished(root / "parts").get(path) != when]
    before = finished(root / "parts")
    child, lines = start([*words, f"--workdir={root / 'parts'}"])
    list(lines)
    code = code_of(child)
    touched += [path for path, when in before.items() if finished(root / "parts")[path] != when]
    return {"events": events, "code": code, "same": cells(root / "whole") == cells(root / "parts"), "touched": touched}


def together(root):
    """Two workers on one folder that really train; which cells were trained, by what they said."""
    children = [start([*GRID, f"--workdir={root}", f"--worker={i}/2"], slow=0.01) for i in range(2)]
    said = [line for _, lines in children for line in lines]
    codes = [code_of(child) for child, _ in children]
    trained = [int(line.split()[1]) - 1 for line in said if line.startswith("cell ")]
    return {"codes": codes, "trained": trained, "statuses": [cell["status"] for cell in cells(root)[0]]}


def claim(root, i, count):
    """A worker whose cells take a few milliseconds: each writes its name into a log, and its record."""

    def fit(experiment, leaves, options, watcher, executables, folder):
        with open(root / "log", "a") as log:
            log.write(f"{folder.path.name}\n")
        time.sleep(random.random() * 0.004)
        record = folder.path / "seed0" / "record.json"
        record.parent.mkdir(exist_ok=True)
        record.with_suffix(".new").write_text(json.dumps({"status": "done", "metrics": {}}))
        record.with_suffix(".new").rename(record)

    sweep_worker.fit = fit
    sweep_worker.live_line = lambda experiment: SimpleNamespace(close=lambda: None)
    opened = SimpleNamespace(session=lambda config: SimpleNamespace(experiment=None, leaves={}))
    options = {"seed": 0, "seeds": 1, "seeds_mode": "loop"}
    worker = sweep_worker.Worker(opened, options, (i, 2), lambda line: None)
    made = [Cell({"x": k}, None, str(k), root / str(k)) for k in range(count)]
    with Signals() as signals:
        worker.run(made, signals)


def claims(root, trials=20, count=8):
    """Many short races of two workers for the same cells."""
    once = complete = 0
    for trial in range(trials):
        place = root / str(trial)
        place.mkdir(parents=True)
        children = []
        for i in range(2):
            child = os.fork()
            if not child:
                random.seed(trial * 2 + i)
                try:
                    claim(place, i, count)
                finally:
                    os._exit(0)
            children.append(child)
        for child in children:
            code_of(child)
        log = (place / "log").read_text().split()
        once += len(log) == len(set(log))
        complete += set(log) == {str(k) for k in range(count)}
    return {"trials": trials, "once": once, "complete": complete}


if __name__ == "__main__":
    random.seed(time.time_ns())
    place = pathlib.Path(sys.argv[1])
    if sys.argv[2:]:  # more trials than the suite has time for
        print([together(place / str(trial))["trained"] for trial in range(int(sys.argv[2]))])
        sys.exit()
    found = {
        "claims": claims(place / "claims"),
        "killed": killed(place / "killed"),
        "together": together(place / "two"),
    }
    print(json.dumps(found))
