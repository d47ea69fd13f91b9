"""Trains in forked children and kills them: `python killed.py FOLDER`; prints one JSON.

The first child trains FOLDER/whole undisturbed; others train FOLDER/parts, interrupted by SIGTERM or killed with -9 at
random moments, and resume. The modules are imported once, here, but each child starts its own JAX.
"""

import json
import os
import pathlib
import random
import signal
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).parent))

import runs
import tiny

from jaxdl.engine.signals import EXIT_INTERRUPTED, Interrupted
from jaxdl.engine.watcher import Silent

SIGNALS = [signal.SIGTERM] + [signal.SIGKILL] * 5 + [signal.SIGTERM] + [signal.SIGKILL] * 5


class Pipe(Silent):
    """Tells the parent what is said and when training has begun."""

    def __init__(self, descriptor):
        self.descriptor, self.begun = descriptor, False

    def update(self, step, total, metrics, items_per_second):
        if not self.begun:
            self.begun = True
            self.say("begun")

    def say(self, line):
        os.write(self.descriptor, (line + "\n").encode())


def experiment():
    """Two phases with many checkpoints, so that a random moment often falls into one, or between the phases."""
    import dataclasses

    train = tiny.train_config(steps=100, checkpoint_every=5, eval_every=10)
    made = tiny.two_phases()
    phases = tuple(dataclasses.replace(phase, steps=100) for phase in made.phases)
    return dataclasses.replace(made, phases=phases, train=train)


def start(folder):
    """A child that trains `folder`; its process id and what it says."""
    read, write = os.pipe()
    child = os.fork()
    if child:
        os.close(write)
        return child, os.fdopen(read)
    code = 1
    try:
        runs.train(experiment(), folder, Pipe(write))
        code = 0
    except Interrupted:
        code = EXIT_INTERRUPTED
    finally:
        os._exit(code)


def main(root):
    """Trains, kills, resumes; what happened."""
    random.seed(time.time_ns())
    child, lines = start(f"{root}/whole")
    next(line for line in lines if line == "begun\n")
    began = time.time()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    span = time.time() - began
    happened = []
    for number in SIGNALS:
        before = [step for step in runs.checkpoints(f"{root}/parts") if isinstance(step, int)]
        child, lines = start(f"{root}/parts")
        said = []
        for line in lines:
            said.append(line.strip())
            if said[-1] == "begun":
                break
        else:
            break  # it had little left to do and has finished
        time.sleep(random.random() * span / 6)
        os.kill(child, number)
        began = time.time()
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        record = pathlib.Path(root, "parts", "record.json").read_text()
        resumed = [int(line.split()[-1]) for line in said if line.startswith("resuming")]
        happened.append(
            {
                "signal": int(number),
                "code": code,
                "seconds": time.time() - began,
                "durable": before[-1:],
                "resumed": resumed,
                "status": json.loads(record)["status"],
                "said": said,
            }
        )
        if code == 0:
            break
    child, lines = start(f"{root}/parts")
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    print(json.dumps({"happened": happened, "code": code, "span": span}))


if __name__ == "__main__":
    main(sys.argv[1])
