"""Compiles a recipe's training step for a TPU or a GPU without having one: `python -m experiments.compile --recipe=NAME`.

Needs the [tpu] extra (libtpu) or the [gpu] extra (CUDA's plugin). Tells what a step computes, what each chip must hold, what
the chips send each other, and the least time all that can take.
"""

import json
import os
import pathlib
import re
import time
from dataclasses import dataclass
from typing import Any

from experiments import backend, cli
from experiments.flags import UsageError, option
from experiments.gpu_targets import TARGETS
from jaxdl.errors import UserError

# libtpu asks a metadata server and the environment what machine it is on (here on none), and lets one process load it
# because a TPU serves one (here there is none to share)
_NOWHERE = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_WORKER_ID": "0",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}


@dataclass(frozen=True)
class CompileOptions:
    """For which chips, and where the numbers go."""

    topology: str = option(
        "v5e:2x2",
        "TPU generation and how its chips are laid out (v5e:2x2, v5e:4x4, v5p:2x2x1, ...), or a GPU and how many of one machine "
        f"({', '.join(TARGETS)}; h200:8)",
    )
    output: str = option("", "JSON file to write the numbers to")


BINARY = cli.Binary(
    program="compile",
    summary="Compiles a recipe's training step for a TPU topology or GPUs, data-parallel over them (tensor-parallel too with "
    "--model_parallel), without having one: FLOPs, memory, collectives and the roofline time of a step, for each phase.",
    flags=("recipe", "parallel", "fsdp", "model_parallel", "precision"),
    options=CompileOptions,
)


def main(arguments: cli.Arguments) -> int:
    """Compiles each phase's training program and prints a table."""
    flags = arguments.flags
    name, _, count = flags.topology.partition(":")
    devices = gpu_devices(name, count) if name in TARGETS else tpu_devices(flags.topology)
    from experiments.session import open_recipe
    from jaxdl.engine.devices import Layout
    from jaxdl.engine.options import partition_rules

    session = open_recipe(arguments.recipe, arguments.config, flags.precision)
    layout = Layout(
        parallel=flags.parallel,
        devices=devices,
        fsdp=flags.fsdp,
        model_parallel=flags.model_parallel,
        rules=partition_rules(session.experiment, flags.model_parallel),
    )
    rows = [described(phase, layout) for phase in session.experiment.phases]
    found = {
        "recipe": arguments.recipe.title,
        "topology": flags.topology,
        "chip": devices[0].device_kind,
        "chips": len(devices),
        "parallel": flags.parallel,
        "fsdp": flags.fsdp,
        "model_parallel": flags.model_parallel,
        "precision": flags.precision,
        "phases": rows,
    }
    print(table(found), flush=True)
    if flags.output:
        pathlib.Path(flags.output).write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return 0


def tpu_devices(topology: str) -> tuple:
    """Stand-ins for the chips of a topology, which programs can be compiled for.

    Raises:
      UserError: libtpu is not installed.
      UsageError: there is no such topology.
    """
    import importlib.util

    if not re.fullmatch(r"\w+:\d+(x\d+)*", topology):
        raise UsageError(
            f"--topology={topology}: expected a TPU generation and its chips, as v5e:2x2 or v5p:2x2x1, or a GPU "
            f"({', '.join(TARGETS)}; h200:8 for eight)"
        )
    if importlib.util.find_spec("libtpu") is None:
        raise UserError("libtpu is not installed: pip install -c constraints.txt -e '.[tpu]' (no TPU is needed)")
    for name, value in _NOWHERE.items():
        os.environ.setdefault(name, value)
    _run_on_cpu()
    from jax.experimental import topologies

    try:
        return tuple(topologies.get_topology_desc(topology, platform="tpu").devices)
    except Exception as error:  # of several types, by what is wrong with the name
        said = " ".join(str(error).split())
        raise UsageError(f"--topology={topology}: libtpu knows no such topology ({said[:160]})") from error


def _run_on_cpu() -> None:
    """JAX itself, also where a recipe has imported it already."""
    os.environ["JAX_PLATFORMS"] = "cpu"
    import jax

    jax.config.update("jax_platforms", "cpu")


def gpu_devices(name: str, count: str) -> tuple:
    """Stand-ins for GPUs of one machine, which programs can be compiled for.

    Args:
      name: one of TARGETS.
      count: how many; "": one.

    Raises:
      UserError: CUDA's plugin for JAX is not installed, or of another version.
      UsageError: `count` is no number.
    """
    import importlib.util

    if count and not (count.isdigit() and int(count) > 0):
        raise UsageError(f"--topology={name}:{count}: expected a number of GPUs, as {name}:8")
    if not any(importlib.util.find_spec(f"jax_cuda{version}_plugin") for version in (12, 13)):
        raise UserError(
            "JAX's CUDA plugin is not installed: pip install -c constraints.txt -e '.[gpu]' (no GPU is needed)"
        )
    _run_on_cpu()
    # nothing can be tried on a GPU that is not there
    backend.prefer_flags(("--xla_gpu_autotune_level=0", "--xla_gpu_enable_triton_gemm=false"))
    from jax.experimental import topologies

    topology = f"1x1x{count or 1}"
    described = TARGETS[name].described()
    try:
        return tuple(topologies.get_topology_desc(platform="cuda", topology=topology, target_config=described).devices)
    except Exception as error:  # of several types: another version's description, a plugin of another jaxlib
        said = " ".join(str(error).split())
        raise UserError(f"this version of JAX and its CUDA plugin cannot describe a {name}: {said[:160]}") from error


def described(phase: Any, layout: Any) -> dict[str, Any]:
    """One phase's training program, compiled for a layout of chips, in numbers; bytes, FLOPs and seconds of one step."""
    from experiments.hlo import totals
    from experiments.roofline import roofline
    from jaxdl.engine.ahead import compile_ahead

    devices = layout.devices
    began = time.perf_counter()
    compiled = compile_ahead(phase, layout, "tpu" if devices[0].platform == "tpu" else "gpu")
    found = totals(compiled.as_text() or "")
    memory: Any = compiled.memory_analysis()
    parts = {
        "arguments": memory.argument_size_in_bytes,
        "outputs": memory.output_size_in_bytes - memory.alias_size_in_bytes,
        "temporary": memory.temp_size_in_bytes,
        "program": memory.generated_code_size_in_bytes,
    }
    row = {
        "phase": phase.name,
        "flops_a_chip": found.flops,
        "flops": found.flops * len(devices),
        "memory_traffic_a_chip": found.bytes,
        "memory_a_chip": {**parts, "all": sum(parts.values())},
        "donated": memory.alias_size_in_bytes,
        "collectives": {kind: {"count": n, "bytes": size} for kind, (n, size) in sorted(found.collectives.items())},
        # one of them is the loop over the steps of a chunk
        "loops_of_unknown_length": found.unknown_loops,
        "compile_seconds": time.perf_counter() - began,
    }
    chip, source = peaks(devices[0].device_kind)
    if chip is not None:
        least = roofline(found, chip, len(devices))
        times = {"compute": least.compute, "memory": least.memory, "links": least.links, "step": least.seconds}
        row["roofline_seconds"] = {**times, "bound": least.bound}
        row["peaks"] = {**vars(chip), "source": source}
    return row


def peaks(kind: str) -> tuple[Any, str]:
    """The peaks of a chip by JAX's name of it and where they are from; (None, "") where none are known."""
    from experiments import gpu_targets, roofline

    for target in gpu_targets.TARGETS.values():
        if target.kind == kind:
            return target.chip, gpu_targets.SOURCE
    return (roofline.CHIPS[kind], roofline.SOURCE) if kind in roofline.CHIPS else (None, "")


def table(found: dict[str, Any]) -> str:
    """The numbers for people."""
    about = ("recipe", "topology", "parallel", "fsdp", "model_parallel", "precision")
    left_out = {"fsdp": False, "model_parallel": 1}
    lines = [f"{name:<14} {found[name]}" for name in about if found[name] != left_out.get(name)]
    lines.insert(2, f"{'chips':<14} {found['chips']} x {found['chip']}")
    for row in found["phases"]:
        memory = row["memory_a_chip"]
        held = f"{size(memory['all'])} ({', '.join(f'{size(memory[n])} {n}' for n in memory if n != 'all')})"
        sent = [f"{c['count']} {kind} ({size(c['bytes'])})" for kind, c in row["collectives"].items()]
        lines += ["", f"phase {row['phase']}"]
        lines += [f"  FLOPs a step   {row['flops']:.4g} ({row['flops_a_chip']:.4g} a chip; products and convolutions)"]
        lines += [f"  memory a chip  {held}", f"  collectives    {', '.join(sent) or 'none'}"]
        lines += [f"  HBM traffic    {size(row['memory_traffic_a_chip'])} a chip and step"]
        if "roofline_seconds" in row:
            least = row["roofline_seconds"]
            times = ", ".join(f"{name} {1e6 * least[name]:.3g}" for name in ("compute", "memory", "links"))
            lines += [f"  roofline       {1e6 * least['step']:.3g} us a step, bound by {least['bound']} (us: {times})"]
        else:
            lines += ["  roofline       no peaks are known of this chip"]
        if row["loops_of_unknown_length"] > 1:
            lines += [f"  {row['loops_of_unknown_length'] - 1} loops of unknown length, each counted as one pass"]
    if chip := found["phases"][0].get("peaks"):
        peaks = f"{chip['flops'] / 1e12:g} TFLOP/s bf16, {chip['memory_rate'] / 1e9:g} GB/s, {size(chip['memory'])}"
        lines += ["", f"peaks of a chip: {peaks}, {chip['link_rate'] / 1e9:g} GB/s over links ({chip['source']})"]
    return "\n".join(lines)


def size(number: float) -> str:
    """Bytes for people: "1.5 MB"."""
    for unit in ("B", "kB", "MB"):
        if number < 1000:
            return f"{number:.3g} {unit}"
        number /= 1000
    return f"{number:.4g} GB"


if __name__ == "__main__":
    cli.run(main, BINARY)
