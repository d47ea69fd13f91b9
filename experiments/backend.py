"""What must be set before JAX starts its backend: memory, XLA's flags, the compilation cache, third parties' logging."""

import ctypes
import gc
import hashlib
import importlib.util
import logging
import os
import platform
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

# results do not depend on the order of threads, and no autotuning chooses another kernel in the next run
DETERMINISTIC = "--xla_gpu_deterministic_ops=true"
# much less to try before a GPU's program is there: NVIDIA's own matrix products only, and no check of each candidate's result
QUICK_TUNING = ("--xla_gpu_autotune_level=2", "--xla_gpu_enable_triton_gemm=false")
HOST_DEVICES = "--xla_force_host_platform_device_count"
THREADS = "NPROC"  # XLA:CPU's name for the size of its thread pool
CACHE_SECONDS = 0.1
# glibc's malloc.h: what is never given back above, how many pieces are mapped apart, how many heaps there are
_MALLOC = {"M_TRIM_THRESHOLD": (-1, 2**31 - 1), "M_MMAP_MAX": (-4, 0), "M_ARENA_MAX": (-8, 1)}
_NOISY = r"(jax|jaxlib|flax|optax|orbax|tensorstore|tensorflow_datasets|etils|absl)(\.|$)"


def cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def host_devices(seeds: int, available: int) -> int:
    """How many CPU devices to make for `seeds` runs side by side: the largest divisor that the cores allow."""
    return max(n for n in range(1, max(1, min(seeds, available)) + 1) if seeds % n == 0)


def keep_memory() -> bool:
    """Lets this process keep the memory that it frees, where the C library is glibc and no MALLOC_... variable is set.

    XLA:CPU frees a program's buffers after each run. By default they go back to the system, which clears and maps them
    anew page by page in the next run: 52 of 205 ms for a step of `char_lstm:tiny_shakespeare` that is a program of its own.

    Returns:
      Whether it does.
    """
    if any(name.startswith("MALLOC_") for name in os.environ) or platform.libc_ver()[0] != "glibc":
        return False
    library = ctypes.CDLL(None)
    return all(library.mallopt(number, value) for number, value in _MALLOC.values())


def spare_threads(devices: int) -> None:
    """Gives XLA:CPU's thread pool two threads for each of several devices, where the user's NPROC does not say otherwise.

    By default there are as many threads as cores or devices, whichever is more. While all devices but one wait for it in a
    reduction, its own work may need a second thread; it then waits for ever, and XLA aborts the process after 40 s
    (`minatar_ppo` in jit on 8 devices and 2 cores, within 20 s of training in 3 of 3 runs; with 16 threads not in a minute).

    Args:
      devices: how many CPU devices there will be.
    """
    if devices > 1 and 2 * devices > cores():
        os.environ.setdefault(THREADS, str(2 * devices))


def collect_seldom() -> None:
    """Python's garbage collector runs seldom: what jax and the other libraries hold never becomes garbage, and to walk through
    it again and again took 0.7 s of each start (of 5.5 for `train --smoke`)."""
    gc.set_threshold(10_000, 10, 10)


def prefer_flags(wanted: Sequence[str]) -> None:
    """Adds XLA flags for this process and those that it starts, where the user's XLA_FLAGS do not name them."""
    missing = _unnamed(wanted)
    if missing:
        os.environ["XLA_FLAGS"] = " ".join(filter(None, [os.environ.get("XLA_FLAGS", ""), *missing]))


def tune_quickly() -> None:
    """QUICK_TUNING, where JAX's plugin for NVIDIA's GPUs is installed, not turned off, and the backend not started yet."""
    platforms = os.environ.get("JAX_PLATFORMS", "").split(",")
    plugin = any(importlib.util.find_spec(f"jax_cuda{version}_plugin") for version in (12, 13))
    if plugin and {"", "cuda", "gpu"} & set(platforms) and not _backend_started():
        prefer_flags(QUICK_TUNING)


def _unnamed(wanted: Sequence[str]) -> list[str]:
    named = {flag.partition("=")[0] for flag in os.environ.get("XLA_FLAGS", "").split()}
    return [flag for flag in wanted if flag.partition("=")[0] not in named]


def start_backend(*, host_devices: int = 1, deterministic: bool = False, threads: int | None = None) -> None:
    """Sets XLA's flags, and keeps memory; must run before the first array is made. Flags in the user's XLA_FLAGS win.

    Args:
      host_devices: devices that the CPU is split into, at most one a core, which never wait for each other. 1 leaves it
        whole.
      deterministic: GPU programs whose results do not depend on the order of threads.
      threads: size of XLA:CPU's thread pool for a CPU that is left whole; None: one a core.

    Raises:
      RuntimeError: JAX's backend has already started without these flags.
    """
    keep_memory()
    wanted = [f"{HOST_DEVICES}={host_devices}"] if host_devices > 1 else []
    wanted += [DETERMINISTIC] if deterministic else []
    named = dict(flag.partition("=")[::2] for flag in os.environ.get("XLA_FLAGS", "").split())
    if named.get(HOST_DEVICES, "").isdigit():
        spare_threads(int(named[HOST_DEVICES]))
    elif threads and host_devices == 1 and not _backend_started():
        os.environ.setdefault(THREADS, str(threads))
    missing = _unnamed(wanted)
    if missing and _backend_started():
        raise RuntimeError(f"XLA flags {' '.join(missing)} come too late: JAX has already started")
    prefer_flags(missing)


def cache_folder() -> Path:
    """Where compiled programs are kept: in the user's cache folder, apart for each CPU model and number of threads.

    JAX's key of a CPU program knows neither, but the program depends on both: it may hold instructions that another
    CPU lacks, and it is cut into as many parts as there are threads, which changes the last bits of its results.
    """
    home = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    machine = hashlib.sha256(f"{_cpu()} {os.environ.get(THREADS, cores())}".encode()).hexdigest()[:12]
    return Path(home) / "jaxdl" / "xla" / machine


def use_compilation_cache() -> None:
    """Keeps compiled programs between processes; JAX_COMPILATION_CACHE_DIR overrides the place ("" turns it off)."""
    settings = {
        "JAX_COMPILATION_CACHE_DIR": str(cache_folder()),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": str(CACHE_SECONDS),
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }
    for name, value in settings.items():
        os.environ.setdefault(name, value)
    if "jax" not in sys.modules:
        return
    # an imported JAX has read the environment already
    jax = sys.modules["jax"]
    if jax.config.jax_compilation_cache_dir:
        return
    jax.config.update("jax_compilation_cache_dir", os.environ["JAX_COMPILATION_CACHE_DIR"] or None)
    seconds = float(os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"])
    jax.config.update("jax_persistent_cache_min_compile_time_secs", seconds)
    size = int(os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"])
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", size)


def quiet() -> None:
    """Keeps third parties' logs and warnings off the terminal; errors still show."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
    for name in ("jax", "orbax", "flax", "etils", "matplotlib", "tensorflow_datasets"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module=_NOISY)


def quiet_absl() -> None:
    """As `quiet`, for absl's own logger; after the imports, because absl sets its level when it is imported."""
    from absl import logging as absl_logging

    absl_logging.set_verbosity(absl_logging.ERROR)


def _cpu() -> str:
    """The CPU's model and instruction sets."""
    try:
        first = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").split("\n\n")[0]
    except OSError:  # not Linux
        return f"{platform.machine()} {platform.processor()}"
    names = ("model name", "flags", "Features", "CPU part")
    return " ".join(line for line in first.splitlines() if line.startswith(names))


def _backend_started() -> bool:
    bridge = sys.modules.get("jax._src.xla_bridge")
    return bool(bridge and bridge.backends_are_initialized())
