"""Downloads a data set and prepares it with its TFDS builder; the only place in this project that downloads."""

import difflib
import shutil
import tempfile
from pathlib import Path

from jaxdl.data.prepared import build, default_dir, open_digits, open_prepared, version_folder
from jaxdl.errors import UserError

# set -> (what a folder of files at hand must hold, bytes to download in MB)
PREPARABLE = {
    "digits": ("nothing: the set is part of scikit-learn", 0),
    "mnist": ("train-images-idx3-ubyte.gz, train-labels-idx1-ubyte.gz and the two t10k files", 12),
    "fashion_mnist": ("train-images-idx3-ubyte.gz, train-labels-idx1-ubyte.gz and the two t10k files", 31),
    "cifar10": ("cifar-10-binary.tar.gz or cifar-10-python.tar.gz, packed or unpacked", 170),
    "spoken_digit": ("v1.0.9.tar.gz of Jakobovski/free-spoken-digit-dataset, or its WAV files", 17),
    "tiny_shakespeare": ("input.txt of karpathy/char-rnn", 1),
}


def prepare(name: str, data_dir: str = "", manual_dir: str = "") -> str:
    """Prepares a set, from the network or from files at hand, and decodes it into the cache.

    Args:
      name: a key of PREPARABLE.
      data_dir: folder of prepared sets; "": `default_dir()`.
      manual_dir: folder that holds the source files; "": download them.

    Returns:
      One line that says what lies where.

    Raises:
      UserError: unknown set, no network, a file that is missing, damaged or not the published one, a full disk.
    """
    if name not in PREPARABLE:
        near = difflib.get_close_matches(name, PREPARABLE, 1)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(PREPARABLE)}"
        raise UserError(f"there is no data set {name!r} to prepare; {hint}")
    if manual_dir and not Path(manual_dir).expanduser().is_dir():
        raise UserError(f"there is no folder {manual_dir} (--manual_dir)")
    if name == "digits":
        splits, _ = open_digits()
        return f"digits: {_sizes(splits)}; part of scikit-learn, nothing to download"
    folder = Path(data_dir).expanduser() if data_dir else default_dir()
    found = version_folder(folder, name)
    done = "already prepared" if found else "prepared"
    if not found:
        _build(name, folder, str(Path(manual_dir).expanduser()) if manual_dir else "")
    splits, _ = open_prepared(name, data_dir)
    return f"{name}: {_sizes(splits)}; {done} in {version_folder(folder, name)}"


def _build(name: str, folder: Path, manual_dir: str) -> None:
    files, _ = PREPARABLE[name]
    scratch = ""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        scratch = tempfile.mkdtemp(prefix=f".{name}-", dir=folder)
        build(name, folder, manual_dir=manual_dir, download_dir=Path(scratch))
    except UserError as error:
        # TFDS adds lines of its own
        raise UserError(str(error).splitlines()[0]) from error
    except ImportError:
        raise
    except OSError as error:
        if _is_network(error):
            raise UserError(
                f"{name} could not be downloaded ({_first_line(error)}); try again with a network, or give the files "
                f"by --manual_dir=DIR: {files}"
            ) from error
        raise UserError(f"{name} could not be written to {folder}: {_first_line(error)}") from error
    except Exception as error:  # TFDS has its own kinds for checksums and failed downloads
        raise UserError(
            f"{name} could not be prepared ({type(error).__name__}: {_first_line(error)}); the files can also be given "
            f"by --manual_dir=DIR: {files}"
        ) from error
    finally:
        if scratch:
            shutil.rmtree(scratch, ignore_errors=True)


def _is_network(error: BaseException) -> bool:
    import requests

    return isinstance(error, requests.exceptions.RequestException | ConnectionError | TimeoutError)


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:160]


def _sizes(splits: dict) -> str:
    return ", ".join(f"{len(next(iter(arrays.values())))} {split}" for split, arrays in splits.items())
