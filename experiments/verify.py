"""Trains a run again and compares digests: `python -m experiments.verify --workdir=runs/lenet5` (0 equal, 1 different)."""

import tempfile

from experiments import cli
from experiments.session import RunOptions

BINARY = cli.Binary(
    program="verify",
    summary="Trains a finished run again from its config.json, in a temporary folder, and compares the digests.",
    flags=("workdir",),
    options=RunOptions,
)


def main(arguments: cli.Arguments) -> int:
    """0 if parameters, state and metrics are equal in every bit, 1 otherwise, with what differs."""
    from experiments.session import open_run, read_config, run_folders
    from jaxdl.engine.fit import Options, fit
    from jaxdl.engine.folder import RunFolder
    from jaxdl.engine.record import versions
    from jaxdl.errors import UserError

    workdir = arguments.flags.workdir
    session = open_run(workdir, getattr(arguments.flags, "data.dir"))
    if "init_from" in read_config(workdir):
        raise UserError(
            f"{workdir} started from another run's parameters, which config.json does not hold: not verifiable"
        )
    equal = True
    for seed, path in run_folders(workdir):
        old = RunFolder(path).read_json("record.json")
        if old["status"] != "done":
            raise UserError(f"{path} is not finished ({old['status']}): nothing to compare")
        program = old["program"]
        with tempfile.TemporaryDirectory() as folder:
            options = Options(
                folder,
                seed=seed,
                parallel=program["parallel"],
                fsdp=program.get("fsdp", False),
                precision=program["precision"],
                seeds_mode="vmap" if program["seeds_mode"] == "vmap" else "auto",
            )
            new = fit(session.experiment, session.leaves, options).records[0]
            differing = [name for name in ("params_digest", "state_digest", "metrics") if old[name] != new[name]]
            differing += ["metrics.jsonl"] if RunFolder(path).rows() != RunFolder(folder).rows() else []
        if not differing:
            print(f"seed {seed}: equal, digest {old['params_digest'][:16]}")
            continue
        equal = False
        print(f"seed {seed}: different in {', '.join(differing)}")
        now = versions()
        changed = [f"{k} {old['versions'].get(k)} -> {now.get(k)}" for k in now if old["versions"].get(k) != now.get(k)]
        facts = new["program"]
        changed += [f"{k} {program.get(k)} -> {facts[k]}" for k in facts if program.get(k) != facts[k]]
        print("  since then: " + (", ".join(changed) if changed else "nothing that is recorded has changed"))
    return 0 if equal else 1


if __name__ == "__main__":
    cli.run(main, BINARY)
