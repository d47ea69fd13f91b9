"""Trains a run again and compares it along the way: `python -m experiments.verify --workdir=runs/lenet5` (0 equal, 1 not)."""

import dataclasses
import io
import os
import pathlib
import shlex
import sys
import tempfile
from collections.abc import Mapping
from typing import Any

from experiments import cli
from experiments.session import RunOptions

BINARY = cli.Binary(
    program="verify",
    summary="Trains a finished run again from its config.json, in a temporary folder, and compares rows, checkpoints "
    "and digests. Where they differ it names the first step and the first array. A run of several processes is trained again by "
    "as many on this machine.",
    flags=("workdir",),
    options=RunOptions,
)


def main(arguments: cli.Arguments) -> int:
    """0 if rows, checkpoints, parameters and metrics are equal in every bit, 1 otherwise, with what differs first.

    A run of several processes is trained again by as many on this machine.
    """
    from experiments.session import run_folders
    from jaxdl.engine import processes

    records = {seed: _finished_record(path) for seed, path in run_folders(arguments.flags.workdir)}
    count = max(record["program"].get("processes", 1) for record in records.values())
    if count == 1:
        return _verify(arguments, records)
    from experiments.spawn import end_with_parent, spawn

    if processes.COORDINATOR not in os.environ:
        return spawn(arguments, count, verdict=1)
    end_with_parent()
    processes.join()
    return _verify(arguments, records)


def _verify(arguments: cli.Arguments, records: Mapping[int, dict]) -> int:
    from experiments.session import open_run, read_config
    from experiments.train import shortened
    from jaxdl.engine import processes
    from jaxdl.errors import UserError

    workdir = arguments.flags.workdir
    session = open_run(workdir, getattr(arguments.flags, "data.dir"))
    if "init_from" in read_config(workdir):
        raise UserError(
            f"{workdir} started from another run's parameters, which config.json does not hold: not verifiable"
        )
    if all("--smoke" in shlex.split(record.get("command") or "") for record in records.values()):
        session = dataclasses.replace(session, experiment=shortened(session.experiment))
    equal = True
    for together in _companies(records, pathlib.Path(workdir)):
        equal &= _repeat(session, pathlib.Path(workdir), {seed: records[seed] for seed in together})
    processes.leave()
    return 0 if equal else 1


def _finished_record(path: pathlib.Path) -> dict[str, Any]:
    from jaxdl.engine.folder import RunFolder
    from jaxdl.errors import UserError

    record = RunFolder(path).read_json("record.json")
    if record is None:
        raise UserError(f"{path} has no record.json: nothing to compare")
    missing = [name for name in ("status", "program", "versions") if name not in record]
    if missing:
        raise UserError(f"{path}/record.json has no {' and no '.join(missing)}: it was changed, nothing to compare")
    if record["status"] != "done":
        raise UserError(f"{path} is not finished ({record['status']}): nothing to compare")
    return record


def _companies(records: Mapping[int, dict], root: pathlib.Path) -> list[list[int]]:
    """Which seeds to train together: under vmap a seed's bits depend on its company, in all other modes they do not."""
    seeds = sorted(records)
    vmapped = all(record["program"].get("seeds_mode") == "vmap" for record in records.values())
    whole = seeds == list(range(seeds[0], seeds[0] + len(seeds))) and not (root / "record.json").exists()
    return [seeds] if vmapped and whole else [[seed] for seed in seeds]


def _repeat(session: Any, root: pathlib.Path, records: Mapping[int, dict]) -> bool:
    """Trains some seeds again and prints what came out; True if all are equal."""
    from experiments.train import live_line
    from jaxdl.engine import processes
    from jaxdl.engine.comparison import Alongside, compare_runs
    from jaxdl.engine.fit import fit
    from jaxdl.engine.folder import RunFolder

    equal = True
    old = {seed: RunFolder(root if (root / "record.json").exists() else root / f"seed{seed}") for seed in records}
    with tempfile.TemporaryDirectory() as folder:
        options = _options(folder, records)
        new = {seed: pathlib.Path(folder, *([] if options.seeds is None else [f"seed{seed}"])) for seed in records}
        live = live_line(session.experiment, sys.stdout if processes.is_first() else io.StringIO())
        first, watcher = min(records), live
        # among several processes to read a folder in mid-run takes all of them
        if options.seeds is None and processes.count() == 1:
            watcher = Alongside(old[first], RunFolder(new[first]), live)
        fit(session.experiment, session.leaves, options, watcher)
        live.close()
        if not processes.is_first():
            return True
        for seed, record in records.items():
            found = compare_runs(old[seed], RunFolder(new[seed]))
            equal &= not found.differing
            _say(seed, found, record, RunFolder(new[seed]).read_json("record.json"))
    return equal


def _options(folder: str, records: Mapping[int, dict]) -> Any:
    """As the run was made: its modes, and its number of devices where there are as many."""
    import jax

    from jaxdl.engine import processes
    from jaxdl.engine.fit import Options

    program = records[min(records)]["program"]
    vmapped = program.get("seeds_mode") == "vmap"
    # each seed had a device to itself where seeds were spread
    devices = 1 if program.get("seeds_mode") == "shard" else program.get("devices", 0)
    return Options(
        folder,
        seed=min(records),
        seeds=len(records) if vmapped else None,
        seeds_mode="vmap" if vmapped else "auto",
        parallel=program.get("parallel", "jit"),
        fsdp=program.get("fsdp", False),
        model_parallel=program.get("model_parallel", 1),
        precision=program.get("precision", "float32"),
        devices=min(devices, jax.local_device_count() if processes.count() == 1 else jax.device_count()),
    )


def _say(seed: int, found: Any, old: Mapping[str, Any], new: Mapping[str, Any]) -> None:
    if not found.differing:
        compared = f", at steps {', '.join(map(str, found.steps))} too" if found.steps else ", no checkpoint to compare"
        print(f"seed {seed}: equal, digest {old['params_digest'][:16]}{compared}")
        for line in found.lines:
            print(f"  {line}")
        return
    print(f"seed {seed}: different in {', '.join(found.differing)}")
    for line in found.lines:
        print(f"  {line}")
    for where, record in (("there", old), ("here", new)):
        print(f"  {where}: {_facts(record)}")
    changed = [
        f"{name} {old[part].get(name)} -> {value}"
        for part in ("versions", "program")
        for name, value in new[part].items()
        if old[part].get(name) != value
    ]
    print("  since then: " + (", ".join(changed) if changed else "nothing that is recorded has changed"))


def _facts(record: Mapping[str, Any]) -> str:
    program, versions = record["program"], record["versions"]
    devices = f"{program.get('devices')} x {program.get('platform')} ({program.get('device_kind')})"
    return f"{devices}, {program.get('threads')} threads, " + ", ".join(f"{k} {v}" for k, v in versions.items())


if __name__ == "__main__":
    cli.run(main, BINARY)
