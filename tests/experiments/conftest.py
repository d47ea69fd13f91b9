"""The folder of the tests' own modules, and one thread for PyTorch."""

import pathlib
import sys

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).parent))


@pytest.fixture
def one_thread():
    """PyTorch's threads wait actively, which on a busy machine takes the cores from those that work."""
    torch = pytest.importorskip("torch", reason="PyTorch is the other side of this comparison")
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
