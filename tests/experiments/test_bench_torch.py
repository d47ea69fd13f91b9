"""PyTorch's side of a benchmark leaves the process as it found it."""

import sys

import numpy as np
import pytest


def test_denormals_are_flushed_only_while_pytorch_is_measured(one_thread):
    import torch

    from experiments import bench_torch

    smallest = sys.float_info.min  # the smallest normal float: half of it is a denormal one
    half = np.float64(0.5)
    with bench_torch.threads(2) as build:
        assert smallest * half == 0.0
        assert torch.get_num_threads() == 2
        assert build.startswith(f"{torch.__version__}, 2 threads")
    assert smallest * half > 0.0
    assert torch.get_num_threads() == 1
    with pytest.raises(RuntimeError, match="of a trial"), bench_torch.threads(2):
        raise RuntimeError("of a trial")
    assert smallest * half > 0.0
    assert torch.get_num_threads() == 1
