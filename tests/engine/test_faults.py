"""What goes wrong on disks and in folders: caught, said in one line, and nothing good is lost."""

import contextlib
import errno
import json
import os
import pathlib
import shutil
import subprocess

import numpy as np
import pytest
import tiny
from runs import Listener, checkpoints, files, interrupt, leaves, record, result, train

from jaxdl.engine.checkpoint import Checkpoints
from jaxdl.engine.folder import RunFolder
from jaxdl.errors import UserError


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """An undisturbed run."""
    folder = tmp_path_factory.mktemp("whole")
    train(tiny.regression(), folder)
    return folder


@pytest.fixture
def part(tmp_path):
    """A run with checkpoints at 25 and 49, where it was interrupted: told of step 42 while the next chunk ran."""
    interrupt(tiny.regression(), tmp_path, 42)
    assert checkpoints(tmp_path) == [25, 49]
    return tmp_path


def arrays(seed=0):
    """Something to save that does not compress, so that a flipped bit is a flipped number."""
    return {
        "a": np.random.default_rng(seed).normal(size=(40, 50)).astype(np.float32),
        "b": np.arange(7, dtype=np.int32),
    }


def flip(path, byte, bit=3):
    """Flips one bit of a file."""
    data = bytearray(path.read_bytes())
    data[byte % len(data)] ^= 1 << bit
    path.write_bytes(bytes(data))


def largest(folder):
    """The file that holds the numbers."""
    return max((path for path in folder.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)


def one_line(error):
    """The message, which must be one line."""
    text = str(error.value)
    assert "\n" not in text
    assert len(text) < 400
    return text


@pytest.mark.smoke
def test_what_is_saved_comes_back(tmp_path):
    checkpoints = Checkpoints(tmp_path / "c")
    assert checkpoints.newest() is None
    for step in (5, 10, 20):
        checkpoints.save(step, arrays(step), {"position": {"t": step, "value": 0.1, "none": None, "nan": float("nan")}})
    assert checkpoints.steps() == [10, 20]
    found, metadata = checkpoints.newest()
    for name, array in arrays(20).items():
        assert found[name].dtype == array.dtype
        np.testing.assert_array_equal(found[name], array)
    assert metadata["step"] == 20
    assert metadata["position"]["value"] == 0.1
    checkpoints.save(20, arrays(21), {"position": {}})  # the same step again: replaced
    np.testing.assert_array_equal(checkpoints.newest()[0]["a"], arrays(21)["a"])
    assert sorted(path.name for path in (tmp_path / "c").iterdir()) == ["10", "20"]


def test_a_flipped_bit_is_never_taken(tmp_path):
    """Bits all over the files: each load gives the saved numbers and metadata, or says that it is damaged."""
    saved = Checkpoints(tmp_path / "c")
    position = {"t": 123, "best_value": [0.25], "lines": [17]}
    saved.save(1, arrays(), {"position": position})
    rng = np.random.default_rng(0)
    paths = sorted(path for path in (tmp_path / "c" / "1").rglob("*") if path.is_file())
    caught = 0
    for path in paths:
        original = path.read_bytes()
        for byte in rng.integers(0, max(1, len(original)), 4 if path != largest(tmp_path / "c") else 12):
            if not original:
                continue
            flip(path, int(byte), int(rng.integers(8)))
            try:
                found, metadata = saved.load(1)
                np.testing.assert_array_equal(found["a"], arrays()["a"])
                np.testing.assert_array_equal(found["b"], arrays()["b"])
                assert metadata["position"] == position
            except ValueError:
                caught += 1
            path.write_bytes(original)
    assert caught >= 12


@pytest.mark.parametrize("damage", ["flipped", "truncated", "missing", "empty", "metadata"])
def test_a_damaged_checkpoint_is_passed_over(damage, part, whole):
    newest = part / "checkpoints" / "49"
    if damage == "flipped":
        flip(largest(newest), 300)
    elif damage == "truncated":
        path = largest(newest)
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    elif damage == "missing":
        largest(newest).unlink()
    elif damage == "empty":
        subprocess.run(["rm", "-r", *newest.iterdir()], check=True)
    else:  # a position that is one step off would go unnoticed by a digest of the arrays alone
        path = newest / "metadata" / "metadata"
        text = path.read_text()
        assert '"t": 49' in text
        path.write_text(text.replace('"t": 49', '"t": 50'))
    listener = Listener()
    train(tiny.regression(), part, listener)
    damaged = [line for line in listener.lines if "damaged" in line]
    assert len(damaged) == 1
    assert "checkpoint 49" in damaged[0]
    assert "step 25" in damaged[0]
    assert "resuming from step 25" in listener.lines
    assert result(part) == result(whole)


@pytest.mark.smoke
def test_if_all_are_damaged_it_refuses_and_says_so(part):
    for folder in (part / "checkpoints").iterdir():
        flip(largest(folder), 300)
    before = (part / "metrics.jsonl").read_text(), checkpoints(part)
    for _ in range(2):  # a second try must not start over either
        with pytest.raises(UserError, match="no checkpoint.*is whole.*--overwrite") as error:
            train(tiny.regression(), part)
        one_line(error)
        assert before == ((part / "metrics.jsonl").read_text(), checkpoints(part))
    train(tiny.regression(), part, overwrite=True)
    assert record(part)["status"] == "done"


def test_another_shape_tree_or_dtype_is_refused(part):
    config = leaves(tiny.regression())
    with pytest.raises(
        UserError, match=r"state/nets/model/params/w is float32\[1, 3\], expected float32\[1, 5\]"
    ) as error:
        train(tiny.regression(tiny.Regression(features=5)), part, config=config)
    one_line(error)
    with pytest.raises(UserError, match=r"state/nets/model/opt/0/count is missing"):
        train(tiny.regression(tiny.Regression(adam=True)), part, config=config)
    stored = Checkpoints(part / "checkpoints")
    found, metadata = stored.load(49)
    found["state/nets/model/params/w"] = found["state/nets/model/params/w"].astype(np.float16)
    stored.save(49, found, {name: metadata[name] for name in ("seeds", "position")})
    with pytest.raises(UserError, match=r"params/w is float16\[1, 3\], expected float32\[1, 3\]"):
        train(tiny.regression(), part)
    found.pop("state/nets/model/params/w")
    stored.save(
        49, {**found, "state/nets/other": np.zeros(1)}, {name: metadata[name] for name in ("seeds", "position")}
    )
    with pytest.raises(UserError, match=r"params/w is missing; state/nets/other is not part of this model"):
        train(tiny.regression(), part)


def test_a_format_of_the_future_is_refused(part, monkeypatch):
    monkeypatch.setattr("jaxdl.engine.checkpoint.FORMAT", 2)
    with pytest.raises(UserError, match="has format 1 and this version reads 2"):
        train(tiny.regression(), part)


@pytest.mark.smoke
@pytest.mark.parametrize("options", [{}, {"seeds": 2}])
def test_a_command_that_failed_before_its_first_step_is_in_nobodys_way(options, tmp_path):
    class Broken(tiny.Regression):
        def init(self, key, hyper):
            raise UserError("no such network")

    with pytest.raises(UserError, match="no such network"):
        train(tiny.regression(Broken()), tmp_path, **options)
    assert (tmp_path / "config.json").exists()
    train(tiny.regression(train=tiny.train_config(steps=30)), tmp_path)
    assert record(tmp_path)["status"] == "done"


def test_another_configuration_is_refused_with_the_difference(whole):
    experiment = tiny.regression()
    with pytest.raises(UserError, match=r"rate: \(none\) there, 0.1 here") as error:
        train(experiment, whole, config={**leaves(experiment), "rate": 0.1})
    one_line(error)
    with pytest.raises(UserError, match="seed: 0 there, 1 here"):
        train(experiment, whole, seed=1)
    fewer = tiny.regression(train=tiny.train_config(steps=30))
    with pytest.raises(UserError, match="train.steps: 60 there, 30 here"):
        train(fewer, whole)


def test_a_second_run_on_one_folder_is_turned_away(whole, tmp_path):
    held = RunFolder(tmp_path).lock()
    with pytest.raises(UserError, match="another process is working in") as error:
        train(tiny.regression(), tmp_path)
    one_line(error)
    held.unlock()
    code = f"""
import sys; sys.path.insert(0, {str(pathlib.Path(tiny.__file__).parents[2])!r})
from jaxdl.engine.folder import RunFolder
folder = RunFolder({str(tmp_path)!r}).lock(); print("locked", flush=True); input()
"""
    import sys

    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "locked\n"
        with pytest.raises(UserError, match="another process"):
            train(tiny.regression(), tmp_path)
        other.kill()  # a killed process holds no lock
        other.wait()
    train(tiny.regression(), tmp_path)
    assert files(tmp_path) == files(whole)


@contextlib.contextmanager
def small_disk(folder, size):
    """A file system of `size` bytes at `folder`; skips where it may not be made."""
    folder.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)], capture_output=True)
    if done.returncode:
        pytest.skip("mounting a small file system needs more rights than this user has")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_full_disk_leaves_earlier_checkpoints_intact(tmp_path, whole):
    with small_disk(tmp_path / "disk", 400_000) as disk:
        run = disk / "run"
        interrupt(tiny.regression(), run, 28)
        assert checkpoints(run) == [25, 35]
        fill = disk / "fill"
        with contextlib.suppress(OSError), open(fill, "wb", buffering=0) as file:
            while True:
                file.write(bytes(4096))
        with pytest.raises(UserError, match="disk is full") as error:
            train(tiny.regression(), run)
        one_line(error)
        fill.unlink()
        assert checkpoints(run) == [25, 35]
        listener = Listener()
        train(tiny.regression(), run, listener)
        assert "resuming from step 35" in listener.lines
        assert result(run) == result(whole)


def test_a_disk_that_fills_during_a_checkpoint(tmp_path, whole):
    with small_disk(tmp_path / "disk", 2_000_000) as disk:
        wide = {"a": np.random.default_rng(0).normal(size=(200, 1000)).astype(np.float32)}
        stored = Checkpoints(disk / "c")
        stored.save(1, wide, {})
        stored.save(2, wide, {})
        with pytest.raises(UserError, match="disk is full: checkpoint 3 .* earlier ones are intact") as error:
            stored.save(3, wide, {})
        one_line(error)
        assert checkpoints(disk) == [] and stored.steps() == [1, 2]
        assert [path.name for path in (disk / "c").iterdir() if not path.name.isdigit()] == []
        np.testing.assert_array_equal(stored.newest()[0]["a"], wide["a"])


@pytest.mark.smoke
def test_a_workdir_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    for place in (tmp_path / "file", tmp_path / "file" / "run", pathlib.Path("/proc/run")):
        with pytest.raises(UserError, match="cannot (make|write to) the workdir .*--workdir") as error:
            train(tiny.regression(), place)
        one_line(error)
    with pytest.raises(UserError, match="gs://bucket/run is no folder of this machine: .*--workdir") as error:
        train(tiny.regression(), "gs://bucket/run")
    one_line(error)


@pytest.mark.parametrize(("name", "text"), [("config.json", "{"), ("record.json", "[]"), ("record.json", "\udcff")])
def test_a_damaged_record_is_one_line(name, text, tmp_path):
    experiment = tiny.regression(train=tiny.train_config(steps=1))
    train(experiment, tmp_path)
    (tmp_path / name).write_bytes(os.fsencode(text))
    with pytest.raises(UserError, match=f"{name} cannot be read") as error:
        train(experiment, tmp_path)
    one_line(error)


def test_rows_that_are_gone_are_noticed(part):
    text = (part / "metrics.jsonl").read_text()
    (part / "metrics.jsonl").write_text("".join(text.splitlines(keepends=True)[:3]))
    with pytest.raises(UserError, match="fewer than"):
        train(tiny.regression(), part)


def test_half_a_row_and_half_a_file_of_a_killed_run_go(part, whole):
    with open(part / "metrics.jsonl", "a") as file:
        file.write('{"step": 50, "ph')
    (part / ".record.json.123").write_text("{")
    train(tiny.regression(), part)
    assert result(part) == result(whole)
    assert not (part / ".record.json.123").exists()


def test_a_kill_between_two_saves_of_one_step_loses_neither(part, whole):
    """A phase that begins at the step the last one was saved at replaces that checkpoint; the old one goes last."""
    folder = part / "checkpoints"
    (folder / "49").rename(folder / "49.new")
    (folder / "49.orbax-checkpoint-tmp-7").mkdir()
    listener = Listener()
    train(tiny.regression(), part, listener)
    assert "resuming from step 49" in listener.lines
    assert result(part) == result(whole)
    assert checkpoints(part) == [50, 60]


@pytest.mark.smoke
def test_a_kill_in_the_middle_of_overwriting_leaves_what_can_be_overwritten(part, tmp_path, monkeypatch):
    left, done = [0], []

    def dying(function):
        def call(*args, **kwargs):
            if left[0] == 0:
                raise KeyboardInterrupt
            left[0] -= 1
            return function(*args, **kwargs)

        return call

    monkeypatch.setattr("jaxdl.engine.folder.shutil.rmtree", dying(shutil.rmtree))
    monkeypatch.setattr(pathlib.Path, "unlink", dying(pathlib.Path.unlink))
    for k in range(50):
        left[0] = 1000
        folder = tmp_path.with_name(f"copy{k}")
        shutil.copytree(part, folder)
        left[0] = k
        with contextlib.suppress(KeyboardInterrupt):
            RunFolder(folder).clear()
            break
        assert (folder / "checkpoints").exists() or not (folder / "record.json").exists()
        done.append(k)
        left[0] = 1000
        RunFolder(folder).clear()
    assert len(done) > 5 and not [path for path in folder.iterdir() if path.name != ".lock"]


def test_overwrite_deletes_only_a_runs_files(part, tmp_path_factory):
    (part / "notes.txt").write_text("mine")
    (part / "seed5").mkdir()
    (part / "seed5" / "notes.txt").write_text("mine")
    train(tiny.regression(train=tiny.train_config(steps=1)), part, overwrite=True)
    assert (part / "notes.txt").read_text() == "mine"
    assert (part / "seed5" / "notes.txt").read_text() == "mine"
    assert checkpoints(part) == [1]
    other = tmp_path_factory.mktemp("other")
    (other / "record.json").write_text("{}")
    with pytest.raises(UserError, match="no run folder"):
        train(tiny.regression(), other, overwrite=True)
    assert (other / "record.json").exists()


def test_a_kill_while_steps_grow_leaves_an_unfinished_run(whole, tmp_path, monkeypatch):
    train(tiny.regression(), tmp_path)
    longer = tiny.regression(train=tiny.train_config(steps=80))
    write = RunFolder.write_json

    def killed(self, name, value):
        write(self, name, value)
        if name == "config.json":
            raise KeyboardInterrupt

    monkeypatch.setattr(RunFolder, "write_json", killed)
    with pytest.raises(KeyboardInterrupt):
        train(longer, tmp_path)
    monkeypatch.undo()
    assert json.loads((tmp_path / "config.json").read_text())["train.steps"] == 80
    run = train(longer, tmp_path)
    assert run.fresh
    assert run.records[0]["steps"] == 80


def test_no_space_is_said_even_if_orbax_wraps_it(tmp_path, monkeypatch):
    import orbax.checkpoint as ocp

    stored = Checkpoints(tmp_path)
    stored.save(1, arrays(), {})

    def full(self, *args, **kwargs):
        try:
            raise OSError(errno.ENOSPC, "No space left on device")
        except OSError as error:
            raise ValueError("could not write") from error

    monkeypatch.setattr(ocp.Checkpointer, "save", full)
    with pytest.raises(UserError, match="disk is full: checkpoint 2") as error:
        stored.save(2, arrays(), {})
    one_line(error)
    assert stored.steps() == [1]
