"""Model FLOPs utilisation: the operations that training needs, over those that the device could do in the same time.

MFU = FLOPs of a step / (seconds of a step · peak FLOP/s); Chowdhery et al. 2022 (PaLM), section 4.1. The operations are
those of the model (two for a multiplication with its addition; the backward pass counts as two forward passes), not those
that a compiler adds.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from experiments.roofline import CHIPS

NVIDIA = "NVIDIA's data sheet, bfloat16 without sparsity"
GOOGLE = "cloud.google.com/tpu/docs, bfloat16"
MEASURED = "measured in the same run: float32 products of 2048x2048 matrices"
# FLOP/s in bfloat16 by the beginning of JAX's device_kind; the first that fits. A100, H100 and H100 PCIe were compared with
# a second source, the others are still to be
GPUS = {
    "NVIDIA A100": 312e12,
    "NVIDIA H100 PCIe": 756e12,
    "NVIDIA H100 NVL": 835e12,
    "NVIDIA H100": 989e12,
    "NVIDIA GH200": 989e12,
    "NVIDIA H200 NVL": 835e12,
    "NVIDIA H200": 989e12,
    "NVIDIA L4": 121e12,
}


@dataclass(frozen=True)
class Peak:
    """What a device can do at most.

    Attributes:
      flops: operations a second.
      source: where the number is from.
    """

    flops: float
    source: str


def known_peak(device_kind: str) -> Peak | None:
    """The peak of a GPU or TPU by JAX's name of it; None where it is not in the tables."""
    if device_kind in CHIPS:
        return Peak(CHIPS[device_kind].flops, GOOGLE)
    for name, flops in GPUS.items():
        if device_kind == name or device_kind.startswith((f"{name} ", f"{name}-")):
            return Peak(flops, NVIDIA)
    return None


def peak(device: Any, seconds: float = 0.5) -> Peak | None:
    """The peak of a JAX device: from the tables; on a CPU what matrix products reach, which takes `seconds`."""
    if device.platform != "cpu":
        return known_peak(device.device_kind)
    from experiments.bench_loops import products_per_second

    return Peak(products_per_second(seconds=seconds), MEASURED)


def mfu(flops: float, seconds: float, found: Peak | None) -> float | None:
    """Utilisation by `flops` operations in `seconds`; None where no peak is known."""
    return flops / seconds / found.flops if found else None


def transformer_flops(weights: int, layers: int, features: int, length: int) -> float:
    """Operations of training on one token: 6 N + 12 L D T (Chowdhery et al. 2022, appendix B; nanoGPT counts alike).

    Args:
      weights: N, parameters without those of the positions (which are only added).
      layers: L.
      features: D.
      length: T tokens of a row; attention counts in full, though half of it is masked.
    """
    return 6.0 * weights + 12.0 * layers * features * length


def network_flops(model: Any, shape: Sequence[int]) -> float:
    """Operations of training on one example of `shape` (no batch axis): three times the products of its forward pass."""
    from jaxdl.nn.summary import layer_table

    total = 0
    for row in layer_table(model, (1, *shape)):
        if row.kind in ("Conv", "StemConv", "Dense"):
            values = math.prod(row.output_shape)
            # a multiple of two for each value, and one more where there is a bias
            total += row.flops // values // 2 * 2 * values
    return 3.0 * total
