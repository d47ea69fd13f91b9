"""GPUs that programs can be compiled for without having one: XLA's description of a device, and its peaks.

Numbers: NVIDIA's data sheets and the CUDA programming guide's table of compute capabilities; bfloat16 without sparsity.
"""

from dataclasses import dataclass, replace

from experiments.roofline import Chip

SOURCE = "NVIDIA's data sheets"


@dataclass(frozen=True)
class Target:
    """One GPU.

    Attributes:
      kind: JAX's device_kind.
      chip: its peaks; the links are NVLink's, both directions together.
      capability: of CUDA, (major, minor).
      cores: streaming multiprocessors.
      clock: GHz.
      cache: bytes of the second-level cache.
      shared: bytes of shared memory of a multiprocessor, 1 KiB of which is not for programs.
    """

    kind: str
    chip: Chip
    capability: tuple[int, int]
    cores: int
    clock: float
    cache: int
    shared: int

    def described(self) -> str:
        """XLA's GpuTargetConfigProto as text."""
        major, minor = self.capability
        return f"""gpu_device_info {{
  threads_per_block_limit: 1024
  threads_per_warp: 32
  shared_memory_per_block: 49152
  shared_memory_per_core: {self.shared}
  shared_memory_per_block_optin: {self.shared - 1024}
  threads_per_core_limit: 2048
  core_count: {self.cores}
  fpus_per_core: {128 if major >= 9 else 64}
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
  memory_bandwidth: {int(self.chip.memory_rate)}
  l2_cache_size: {self.cache}
  clock_rate_ghz: {self.clock}
  device_memory_size: {int(self.chip.memory)}
  cuda_compute_capability {{ major: {major} minor: {minor} }}
  registers_per_core_limit: 65536
  registers_per_block_limit: 65536
}}
platform_name: "CUDA"
dnn_version_info {{ major: 9 minor: 10 patch: 0 }}
runtime_version {{ major: 13 minor: 0 patch: 0 }}
device_description_str: "{self.kind}"
"""


_H100 = Target(
    "NVIDIA H100 80GB HBM3",
    Chip(flops=989e12, memory_rate=3350e9, memory=80e9, link_rate=900e9),
    (9, 0),
    cores=132,
    clock=1.98,
    cache=50 << 20,
    shared=228 << 10,
)
_A100 = Target(
    "NVIDIA A100-SXM4-80GB",
    Chip(flops=312e12, memory_rate=2039e9, memory=80e9, link_rate=600e9),
    (8, 0),
    cores=108,
    clock=1.41,
    cache=40 << 20,
    shared=164 << 10,
)
# an H200 is an H100 with more and faster memory
_H200 = replace(_H100, kind="NVIDIA H200", chip=replace(_H100.chip, memory_rate=4800e9, memory=141e9))
TARGETS = {"a100": _A100, "h100": _H100, "h200": _H200}
