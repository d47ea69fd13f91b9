"""Checkpoints that can be trusted: Orbax for atomic files, our own digest against damage, fallback to the newest good one.

Orbax renames a finished folder into place, so a killed save leaves nothing half-written; but it neither notices a
flipped bit nor a changed dtype. So each checkpoint carries a sha256 of what it holds, which is checked on restore.
"""

import contextlib
import errno
import hashlib
import json
import os
import pathlib
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from jaxdl.engine.digest import digest
from jaxdl.engine.processes import by_first, count, first_only
from jaxdl.errors import UserError

FORMAT = 1
_NEW = ".new"


class Checkpoints:
    """The folder checkpoints/ of a run: one Orbax folder a step, named by the step.

    Args:
      folder: where the checkpoints lie; made when the first one is saved.
      keep: how many of the newest to keep.
      say: where a line for people goes (a damaged checkpoint was passed over).
    """

    def __init__(self, folder: pathlib.Path, keep: int = 2, say: Callable[[str], None] = print):
        self.folder, self.keep, self.say = pathlib.Path(folder).absolute(), keep, say

    @by_first
    def steps(self) -> list[int]:
        """Steps that have a checkpoint, oldest first."""
        if not self.folder.is_dir():
            return []
        return sorted(int(path.name) for path in self.folder.iterdir() if path.is_dir() and path.name.isdigit())

    @first_only
    def clean(self) -> None:
        """Removes what killed saves left behind, or completes them; only for who holds the run's lock."""
        shutil.rmtree(self._removed, ignore_errors=True)
        if not self.folder.is_dir():
            return
        for path in sorted(self.folder.iterdir()):
            if ".orbax-checkpoint-tmp" in path.name:
                shutil.rmtree(path, ignore_errors=True)
            elif path.name.endswith(_NEW):  # whole, because Orbax renames only what is whole
                _replace(path, self.folder / path.name.removesuffix(_NEW))

    @first_only
    def remove(self) -> None:
        """Deletes all checkpoints; a kill on the way leaves all or none."""
        if self.folder.is_dir():
            shutil.rmtree(self._removed, ignore_errors=True)
            os.rename(self.folder, self._removed)
        shutil.rmtree(self._removed, ignore_errors=True)

    @property
    def _removed(self) -> pathlib.Path:
        return self.folder.with_name(f".{self.folder.name}.removed")

    @by_first
    def save(self, step: int, arrays: dict[str, np.ndarray], metadata: dict) -> None:
        """Writes `arrays` (by name) and `metadata` (JSON) durably as checkpoint `step`, then drops the oldest ones.

        Raises:
          UserError: if the disk is full or the folder cannot be written; earlier checkpoints stay.
        """
        import orbax.checkpoint as ocp

        target = self.folder / str(step)
        metadata = {"format": FORMAT, "step": step, **metadata}
        metadata["digest"] = _sealed(arrays, metadata)
        items = ocp.args.Composite(state=ocp.args.PyTreeSave(arrays), metadata=ocp.args.JsonSave(metadata))
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            # the next phase may begin at the step that the last one was saved at: the old one stays until the new one is whole
            path = self.folder / f"{step}{_NEW}" if target.exists() else target
            with _checkpointer() as checkpointer:
                checkpointer.save(path, args=items)
            if path != target:
                _replace(path, target)
        except Exception as error:  # orbax and tensorstore wrap an OSError in kinds of their own
            self.clean()
            raise UserError(_why_not_saved(step, self.folder, error)) from error
        for old in self.steps()[: -self.keep]:
            shutil.rmtree(self.folder / str(old), ignore_errors=True)

    @by_first
    def load(self, step: int) -> tuple[dict[str, np.ndarray], dict]:
        """Arrays and metadata of one checkpoint.

        Raises:
          ValueError: if it is damaged.
        """
        import orbax.checkpoint as ocp

        items = ocp.args.Composite(state=ocp.args.PyTreeRestore(), metadata=ocp.args.JsonRestore())
        try:
            with _quiet_readers(), _checkpointer() as checkpointer:
                restored = checkpointer.restore(self.folder / str(step), args=items)
            arrays = {name: np.asarray(value) for name, value in restored.state.items()}
            metadata = dict(restored.metadata)
        except Exception as error:  # any damage: truncated, missing or unreadable files
            raise ValueError(f"cannot be read ({type(error).__name__})") from error
        if metadata.get("format") != FORMAT:
            raise ValueError(f"it has format {metadata.get('format')} and this version reads {FORMAT}")
        if metadata.pop("digest", None) != _sealed(arrays, metadata):
            raise ValueError("its digest does not match its contents")
        return arrays, metadata

    @by_first
    def newest(self, set_aside: bool = False) -> tuple[dict[str, np.ndarray], dict] | None:
        """The newest checkpoint that is whole; damaged ones are passed over and named; None if there is none.

        Args:
          set_aside: move damaged ones out of the way; only for who holds the run's lock.

        Raises:
          UserError: if there are checkpoints and all are damaged.
        """
        damaged: dict[int, str] = {}
        for step in reversed(self.steps()):
            try:
                found = self.load(step)
            except ValueError as error:
                damaged[step] = str(error)
                continue
            for bad, why in damaged.items():
                self.say(f"checkpoint {bad} is damaged ({why}): going back to step {step}")
                if set_aside:
                    self._set_aside(bad)
            return found
        if damaged:
            newest, why = next(iter(damaged.items()))
            raise UserError(
                f"no checkpoint in {self.folder} is whole (step {newest}: {why}): restore the folder from a copy, "
                "or start the run anew with --overwrite"
            )
        return None

    def _set_aside(self, step: int) -> None:
        aside = self.folder / f"{step}.damaged"
        shutil.rmtree(aside, ignore_errors=True)
        (self.folder / str(step)).rename(aside)


def _checkpointer() -> Any:
    import orbax.checkpoint as ocp

    if count() == 1:
        return ocp.Checkpointer(ocp.CompositeCheckpointHandler())
    # Orbax would wait for the other processes, which do not save
    alone = ocp.options.MultiprocessingOptions(primary_host=0, active_processes={0}, barrier_sync_key_prefix="jaxdl")
    handler = ocp.CompositeCheckpointHandler(
        composite_options=ocp.CompositeOptions(multiprocessing_options=alone),
        state=ocp.PyTreeCheckpointHandler(multiprocessing_options=alone),
        metadata=ocp.JsonCheckpointHandler(multiprocessing_options=alone),
    )
    return ocp.Checkpointer(handler, multiprocessing_options=alone)


@contextlib.contextmanager
def _quiet_readers() -> Iterator[None]:
    """If a file is damaged, TensorStore's other reads end after Orbax has given up, each with a traceback on stderr."""
    before = sys.unraisablehook
    sys.unraisablehook = lambda event: None if isinstance(event.exc_value, RuntimeError) else before(event)
    try:
        yield
    except BaseException:
        time.sleep(0.2)
        raise
    finally:
        sys.unraisablehook = before


def _sealed(arrays: dict[str, np.ndarray], metadata: dict) -> str:
    """sha256 over the arrays' digest and the metadata: a bit flipped in either shows."""
    text = json.dumps(json.loads(json.dumps(metadata)), sort_keys=True)
    return hashlib.sha256(f"{digest(arrays)}|{text}".encode()).hexdigest()


def _replace(new: pathlib.Path, old: pathlib.Path) -> None:
    shutil.rmtree(old, ignore_errors=True)
    new.rename(old)


def compare(arrays: dict[str, np.ndarray], template: dict, where: str) -> None:
    """Refuses a checkpoint that another model wrote.

    Args:
      arrays: what was restored, by name.
      template: name -> (shape, dtype) that this run's state has.
      where: the checkpoint, for the message.

    Raises:
      UserError: with the first differences in tree, shape or dtype.
    """
    differences = [f"{name} is missing" for name in template if name not in arrays]
    differences += [f"{name} is not part of this model" for name in arrays if name not in template]
    for name, (shape, dtype) in template.items():
        if name in arrays and (arrays[name].shape != tuple(shape) or arrays[name].dtype != dtype):
            found = f"{arrays[name].dtype}{list(arrays[name].shape)}"
            differences.append(f"{name} is {found}, expected {np.dtype(dtype)}{list(shape)}")
    if differences:
        more = f" (and {len(differences) - 3} more)" if len(differences) > 3 else ""
        raise UserError(f"{where} does not fit this model: " + "; ".join(differences[:3]) + more)


def _why_not_saved(step: int, folder: pathlib.Path, error: BaseException) -> str:
    cause: BaseException | None = error
    while cause is not None:
        text = str(cause)
        if getattr(cause, "errno", None) == errno.ENOSPC or "No space left" in text or "RESOURCE_EXHAUSTED" in text:
            return f"the disk is full: checkpoint {step} was not saved in {folder}; earlier ones are intact, free some space"
        if isinstance(cause, PermissionError) or getattr(cause, "errno", None) in (errno.EROFS, errno.EDQUOT):
            return f"cannot write checkpoint {step} in {folder} ({text}); earlier ones are intact, choose another --workdir"
        cause = cause.__cause__ or cause.__context__
    return f"checkpoint {step} was not saved in {folder} ({type(error).__name__}: {str(error).splitlines()[0][:200]})"
