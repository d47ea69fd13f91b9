"""One thread for PyTorch."""

import pytest


@pytest.fixture
def one_thread():
    """PyTorch with one thread: its threads wait actively, which on a busy machine takes the cores from those that work."""
    torch = pytest.importorskip("torch", reason="PyTorch is the independent reference")
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield torch
    torch.set_num_threads(before)
