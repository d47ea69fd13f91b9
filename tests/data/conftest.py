import os
from pathlib import Path

import pytest

_ROOT = Path(__file__).parents[2]


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty user cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("TFDS_DATA_DIR", raising=False)
    return tmp_path / "cache"


@pytest.fixture(scope="session")
def real_data():
    """The folder of prepared real data sets; skips where there is none."""
    folder = Path(os.environ.get("JAXDL_TEST_DATA") or _ROOT.parent / "shared" / "data")
    if not (folder / "mnist").is_dir():
        pytest.skip(f"no real data sets in {folder} (set JAXDL_TEST_DATA)")
    return folder


@pytest.fixture(scope="session")
def _decoded_once(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def shared_cache(_decoded_once, monkeypatch):
    """A user cache that tests on real data share, because decoding takes seconds."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(_decoded_once))
