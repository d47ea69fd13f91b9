"""Run folders in buckets: what lies there can be gone on from at any moment, and is the run of a local disk."""

import itertools
import json
import pathlib
import shutil
import sys

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).parent))

import laws

from experiments import mirror
from experiments.bucket import Stored
from experiments.mirror import Mirror
from jaxdl.engine.executables import Executables
from jaxdl.engine.watcher import Silent

pytest.importorskip("google.cloud.storage", reason="google-cloud-storage is not installed ([gcs] extra)")
from google.api_core.exceptions import PreconditionFailed

RUN = "gs://bucket/runs/one"


class Memory:
    """A bucket's objects in a dictionary; `states` has them after each write."""

    address, title = RUN, "one"

    def __init__(self, objects=None):
        self.objects, self.states, self.numbers = dict(objects or {}), [], itertools.count(1000)
        self.before = lambda name: None

    def listing(self):
        return {name: Stored(generation, len(content)) for name, (content, generation) in self.objects.items()}

    def upload(self, name, content, generation=None):
        self.before(name)
        there = self.generation(name)
        if generation not in (None, there):
            raise PreconditionFailed("")
        self.objects[name] = content, next(self.numbers)
        self.states.append(dict(self.objects))
        return self.generation(name)

    def generation(self, name):
        return self.objects.get(name, (b"", 0))[1]

    def download(self, name, generation, path):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(self.objects[name][0])
        return True

    def delete(self, name, generation=None):
        self.before(f"-{name}")
        if self.generation(name) == generation:
            del self.objects[name]
            self.states.append(dict(self.objects))


def files(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in pathlib.Path(folder).rglob("*")
        if path.is_file() and path.name != ".lock"
    }


@pytest.mark.parametrize("overwritten", [False, True])
def test_what_a_cut_upload_leaves_behind_is_gone_on_from_to_the_same_end(overwritten, tmp_path):
    made = laws.session("linear_regression", steps=9)
    programs = Executables()
    remote, place = Memory(), tmp_path / "place"
    sent = Mirror(remote, place, overwrites=overwritten)

    class Sending(Silent):
        def update(self, *_):
            sent.push()

    if overwritten:  # by a run of another seed; both save at steps of the same names
        laws.train(made, place, executables=programs, seed=1)
        sent.push()
        remote.states.clear()
    laws.train(made, place, Sending(), programs, overwrite=overwritten)
    sent.push()
    whole = laws.result(place)
    assert {name: content for name, (content, _) in remote.objects.items()} == files(place)
    steps = [{name.split("/")[1] for name in state if name.startswith("checkpoints/")} for state in remote.states]
    assert any(len(found) == 3 for found in steps)  # old checkpoints were removed while newer ones came
    finished = 0
    for k, state in enumerate(remote.states):
        other = tmp_path / str(k)
        Mirror(Memory(state), other).pull()
        record = json.loads((other / "record.json").read_text()) if (other / "record.json").exists() else {}
        if record.get("status") == "done":  # one that nobody trains any more: its files must be the last
            finished += 1
            assert files(other)["record.json"] == files(place)["record.json"]
            assert max(int(path.name) for path in (other / "checkpoints").iterdir()) == 9
        old = json.loads(files(other).get("config.json", b"{}")).get("seed") == 1
        said = []
        watcher = Silent()
        watcher.say = said.append
        laws.train(made, other, watcher, programs, overwrite=old)
        assert laws.result(other) == whole, k
        assert not [line for line in said if "damaged" in line], k
    assert finished


def test_a_record_does_not_overtake_the_checkpoint_that_it_tells_of(tmp_path):
    place, remote = tmp_path / "place", Memory()
    sent = Mirror(remote, place)
    folder = place / "checkpoints" / "5"
    folder.mkdir(parents=True)
    for name in ("state", "_CHECKPOINT_METADATA"):
        (folder / name).write_text(name)
    (place / "record.json").write_text("running")
    (place / "metrics.jsonl").write_text("row\nrow\nha")

    def meanwhile(name):
        if name == "checkpoints/5/state":
            (place / "record.json").write_text("done")

    remote.before = meanwhile
    assert sent.push() == ["metrics.jsonl", "checkpoints/5/state", "checkpoints/5/_CHECKPOINT_METADATA"]
    assert remote.objects["metrics.jsonl"][0] == b"row\nrow\n"
    assert sent.push() == ["record.json"]


@pytest.mark.parametrize("linked", [True, False])  # without links: a file system that has none
def test_a_checkpoint_that_vanishes_while_it_is_uploaded_comes_whole_or_not_at_all(linked, tmp_path, monkeypatch):
    place, remote = tmp_path / "place", Memory()
    for step in "5", "6":
        save(place, step)
    remote.before = lambda name: (
        name.startswith("checkpoints/5") and (place / "checkpoints/5/b").unlink(missing_ok=True)
    )
    sent = Mirror(remote, place)
    monkeypatch.setattr(mirror, "_THREADS", 1)
    if not linked:
        monkeypatch.setattr(Mirror, "_hold_on_to", lambda self, names: None)
    sent.push()
    there = {name for name in mirror.whole(remote.listing()) if name.startswith("checkpoints/5")}
    assert there == ({f"checkpoints/5/{name}" for name in ("a", "b", "_CHECKPOINT_METADATA")} if linked else set())
    assert "checkpoints/6/_CHECKPOINT_METADATA" in remote.objects
    shutil.rmtree(place / "checkpoints" / "5")
    sent.push()
    assert not [name for name in remote.objects if name.startswith("checkpoints/5")]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["place"]


def save(place, step):
    for name in ("a", "b", "_CHECKPOINT_METADATA"):
        (place / "checkpoints" / str(step)).mkdir(parents=True, exist_ok=True)
        (place / "checkpoints" / str(step) / name).write_text(f"{name} of {step}")


@pytest.mark.parametrize("linked", [True, False])
def test_an_upload_slower_than_the_run_saves_never_leaves_the_bucket_without_a_checkpoint(
    linked, tmp_path, monkeypatch
):
    place, remote, newest = tmp_path / "place", Memory(), [6]
    monkeypatch.setattr(mirror, "_THREADS", 1)
    (save(place, 5), save(place, 6))
    sent = Mirror(remote, place)
    sent.push()
    if not linked:
        monkeypatch.setattr(Mirror, "_hold_on_to", lambda self, names: None)

    def goes_on(_=None):
        newest[0] += 1
        save(place, newest[0])
        shutil.rmtree(place / "checkpoints" / str(newest[0] - 2))

    remote.before = goes_on
    for _ in range(4):
        goes_on()
        sent.push()
    for state in remote.states[6:]:
        assert mirror.whole(Memory(state).listing())
    assert ("checkpoints/6/a" in remote.objects) != linked  # and with links it keeps up


def test_a_run_that_went_back_from_a_damaged_checkpoint_hides_it_before_its_rows_are_fewer(tmp_path):
    place, remote = tmp_path / "place", Memory()
    (save(place, 5), save(place, 6))
    (place / "metrics.jsonl").write_text("row\n" * 6)
    sent = Mirror(remote, place)
    sent.push()
    (place / "checkpoints" / "6").rename(place / "checkpoints" / "6.damaged")
    (place / "metrics.jsonl").write_text("row\n" * 5)
    remote.states.clear()
    sent.push()
    for state in remote.states:
        steps = {name.split("/")[1] for name in mirror.whole(Memory(state).listing()) if "/" in name}
        assert state["metrics.jsonl"][0].count(b"row") >= max(map(int, steps))


def test_what_a_killed_process_left_of_a_checkpoint_is_nobodys_training(tmp_path):
    place, remote, state = tmp_path / "place", Memory(), tmp_path / "equal.json"
    save(place, 6)
    remote.objects["checkpoints/3/a"] = b"", 7
    sent = Mirror(remote, place, state)
    sent.push()
    save(place, 7)
    again = Mirror(remote, place, state)
    assert again.pull() is None and (place / "checkpoints" / "7").exists()
    again.tidy()
    assert "checkpoints/3/a" not in remote.objects and len(remote.objects) == 3


def test_half_written_files_are_not_uploaded(tmp_path):
    place, remote = tmp_path / "place", Memory()
    for name in (
        ".lock",
        ".record.json.17",
        "checkpoints/7.orbax-checkpoint-tmp-3/state",
        "checkpoints/8.new/state",
        ".checkpoints.removed/3/state",
        "seed0/.lock",
        "seed0/config.json",
        "plots/curve_loss.png",
    ):
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_text("")
    Mirror(remote, place).push()
    assert sorted(remote.objects) == ["plots/curve_loss.png", "seed0/config.json"]


def test_the_newer_side_wins(tmp_path):
    remote, here = Memory(), tmp_path / "here"
    state = tmp_path / "equal.json"
    here.mkdir()
    (here / "config.json").write_text("1")
    Mirror(remote, here, state).push()
    (here / "record.json").write_text("not uploaded")
    Mirror(remote, here, state).pull()  # nobody was there in between
    assert sorted(files(here)) == ["config.json", "record.json"]
    other = Mirror(remote, tmp_path / "other")
    other.pull()
    (tmp_path / "other" / "record.json").write_text("theirs")
    other.push()
    Mirror(remote, here, state).pull()  # somebody went on
    assert files(here) == {"config.json": b"1", "record.json": b"theirs"}
    shutil.rmtree(here)
    again = Mirror(remote, here, state)
    again.pull()  # a lost copy is no removed run
    again.push()
    assert sorted(files(here)) == sorted(remote.objects) == ["config.json", "record.json"]
