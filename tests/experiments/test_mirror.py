"""Run folders in buckets: what lies there can be gone on from at any moment, and is the run of a local disk."""

import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import threading
import time

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).parent))

import laws
import storage

from experiments import bucket, cli, evaluate, mirror, sweep
from experiments.bucket import Bucket, Stored
from experiments.mirror import Mirror, borrowed, claimed
from jaxdl.engine.executables import Executables
from jaxdl.engine.folder import Taken
from jaxdl.engine.watcher import Silent
from jaxdl.errors import UserError

pytest.importorskip("google.cloud.storage", reason="google-cloud-storage is not installed ([gcs] extra)")

RUN = "gs://bucket/runs/one"


class Memory:
    """A bucket's objects in a dictionary; `states` has them after each write."""

    address, title = RUN, "one"

    def __init__(self, objects=None):
        self.objects, self.states = dict(objects or {}), []
        self.before = lambda name: None

    def listing(self):
        return {name: Stored(generation, len(content)) for name, (content, generation) in self.objects.items()}

    def upload(self, name, content, generation=None):
        self.before(name)
        found = 1 + self.objects.get(name, (b"", 0))[1]
        self.objects[name] = content, found
        self.states.append(dict(self.objects))
        return found

    def download(self, name, generation, path):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(self.objects[name][0])
        return True

    def delete(self, name, generation=None):
        del self.objects[name]
        self.states.append(dict(self.objects))


@pytest.fixture
def cloud(monkeypatch, tmp_path):
    """Storage that the client library reaches, and no copies on this machine yet."""
    with storage.served() as found:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", found.url)
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "machine"))
        yield found


def another_machine(monkeypatch, tmp_path, name="other"):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / name))


def files(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in pathlib.Path(folder).rglob("*")
        if path.is_file() and path.name != ".lock"
    }


def test_what_a_cut_upload_leaves_behind_is_gone_on_from_to_the_same_end(tmp_path):
    made = laws.session("linear_regression", steps=12)
    programs = Executables()
    remote, place = Memory(), tmp_path / "place"
    sent = Mirror(remote, place)

    class Sending(Silent):
        def update(self, *_):
            sent.push()

    laws.train(made, place, Sending(), programs)
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
            assert max(int(path.name) for path in (other / "checkpoints").iterdir()) == 12
        said = []
        watcher = Silent()
        watcher.say = said.append
        laws.train(made, other, watcher, programs)
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


def test_a_checkpoint_that_vanishes_while_it_is_uploaded_stays_invisible(tmp_path, monkeypatch):
    place, remote = tmp_path / "place", Memory()
    for step in "5", "6":
        (place / "checkpoints" / step).mkdir(parents=True)
        for name in ("a", "b", "_CHECKPOINT_METADATA"):
            (place / "checkpoints" / step / name).write_text(name)
    remote.before = lambda name: (
        name.startswith("checkpoints/5") and (place / "checkpoints/5/b").unlink(missing_ok=True)
    )
    sent = Mirror(remote, place)
    monkeypatch.setattr(mirror, "_THREADS", 1)
    sent.push()
    assert {name for name in mirror.whole(remote.listing()) if name.startswith("checkpoints/5")} == set()
    assert "checkpoints/6/_CHECKPOINT_METADATA" in remote.objects
    shutil.rmtree(place / "checkpoints" / "5")
    sent.push()
    assert not [name for name in remote.objects if name.startswith("checkpoints/5")]


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


def run(*words, binary="train"):
    """A command in a process of its own: its exit code and both streams."""
    found = subprocess.run(
        [sys.executable, "-m", f"experiments.{binary}", *words], capture_output=True, text=True, env=os.environ
    )
    return found.returncode, found.stdout + found.stderr


def test_a_run_in_a_bucket_is_that_of_a_disk(cloud, monkeypatch, tmp_path):
    flags = ["--recipe=linear_regression", "--smoke"]
    code, said = run(*flags, f"--workdir={RUN}/", "--seeds=2")
    assert code == 0 and f"uploaded to {RUN}" in said and re.search(rf"run folder +{RUN}", said), said
    assert run(*flags, f"--workdir={tmp_path / 'disk'}", "--seeds=2")[0] == 0
    there = cloud.files("runs/one")
    assert {name for name in there if "checkpoints" not in name} == {
        name for name in files(tmp_path / "disk") if "checkpoints" not in name
    }
    for seed in ("seed0", "seed1"):
        record = json.loads(there[f"{seed}/record.json"])
        assert there[f"{seed}/metrics.jsonl"] == (tmp_path / "disk" / seed / "metrics.jsonl").read_bytes()
        assert (
            record["params_digest"]
            == json.loads((tmp_path / "disk" / seed / "record.json").read_text())["params_digest"]
        )
    assert cloud.objects["runs/one/report.html"].kind == "text/html"

    another_machine(monkeypatch, tmp_path)
    written = len(cloud.log)
    code, said = run(*flags, f"--workdir={RUN}", "--seeds=2")
    assert code == 0 and "nothing to do" in said
    assert {name for _, name in cloud.log[written:]} <= {"runs/one/.lease", "runs/one/summary.json"}
    code, said = run(f"--workdir={RUN}", binary="evaluate")
    assert code == 0 and f"written    {RUN}/evaluation.json" in re.sub(" +", "    ", said), said
    assert json.loads(cloud.files("runs/one")["evaluation.json"])["seeds"] == [0, 1]
    code, said = run(*flags, "--workdir=" + str(tmp_path / "tuned"), f"--init_from={RUN}/seed0")
    assert code == 0, said


def test_commands_that_find_nothing_say_where(cloud, capsys):
    for address, why in (
        ("gs://bucket/none", "gs://bucket/none is no run folder .*--workdir"),
        ("gs://other/none", "gs://other/none is not there: make the bucket"),
        ("gs://bucket", "gs://bucket names no folder in a bucket: expected gs://BUCKET/FOLDER"),
        ("gs://bucket//a", "gs://bucket//a names no folder"),
    ):
        assert cli.execute(evaluate.main, evaluate.BINARY, ["evaluate", f"--workdir={address}"]) == 1
        assert re.fullmatch(f"error: {why}.*\n", capsys.readouterr().err)
    words = ["sweep", "--recipe=linear_regression", "--grid=optimizer.learning_rate=1,2", f"--workdir={RUN}"]
    assert cli.execute(sweep.main, sweep.BINARY, [*words, "--worker=0/2"]) == 2
    assert "gs://... takes one" in capsys.readouterr().err


def test_names_that_leave_the_folder_are_left_alone(cloud, tmp_path):
    for name in ("../evil", "a/../../evil", "/evil", "a//b", "a/./b"):
        cloud.put(f"runs/one/{name}", b"")
    cloud.put("runs/one/config.json", b"{}")
    with borrowed(RUN) as place:
        assert list(files(place)) == ["config.json"]
        assert os.listdir(pathlib.Path(place).parent) == ["one"] and not os.path.exists("/evil")
    assert not pathlib.Path(place).exists()


def test_an_upload_that_fails_at_the_end_is_made_up_for(cloud, capsys):
    cloud.refuse = lambda method, name: name.endswith("record.json")
    kept = rf"{RUN} may not be used .* is kept in .*/one: the same command uploads it"
    with pytest.raises(UserError, match=kept), claimed(RUN) as place:
        (pathlib.Path(place) / "record.json").write_text("{}")
    cloud.refuse = lambda method, name: False
    with claimed(RUN) as place:
        assert list(files(place)) == ["record.json"]
    assert list(cloud.files("runs/one")) == ["record.json"]  # and the lease is given back


def test_one_process_at_a_time(cloud, monkeypatch, tmp_path):
    monkeypatch.setattr(bucket, "RENEW_SECONDS", 0.3)
    monkeypatch.setattr(mirror, "RENEW_SECONDS", 0.3)
    with claimed(RUN):
        with pytest.raises(Taken, match=f"another process of this machine is working in {RUN}"), claimed(RUN):
            pass
        another_machine(monkeypatch, tmp_path)
        with pytest.raises(Taken, match=f"process {os.getpid()} on .* is working in {RUN}: wait"), claimed(RUN):
            pass
        with borrowed(RUN):  # reading is free
            pass
    with claimed(RUN):
        pass


def test_a_dead_holders_lease_ends(cloud, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(bucket, "RENEW_SECONDS", 0.3)
    dead = bucket.Lease(Bucket(RUN), "dead")
    dead.take(print)
    monkeypatch.setattr(bucket, "LEASE_SECONDS", 2.5)
    began = time.monotonic()
    with claimed(RUN):
        assert 1.5 < time.monotonic() - began < 30
        assert not dead.renew() and dead.lost
    assert "waiting for a sign of life" in capsys.readouterr().err
    own = bucket.Lease(Bucket(RUN), "me")
    own.take(print)
    monkeypatch.setattr(bucket, "LEASE_SECONDS", 1e6)
    bucket.Lease(Bucket(RUN), "me").take(print)  # what the same folder's process has left behind


def test_of_two_that_want_a_free_lease_one_gets_it(cloud, monkeypatch):
    monkeypatch.setattr(bucket, "RENEW_SECONDS", 0.1)
    cloud.refuse = lambda method, name: time.sleep(0.05)
    got, ready = [], threading.Barrier(5)

    def want(name):
        lease = bucket.Lease(Bucket(RUN), name)
        ready.wait()
        try:
            lease.take(lambda line: None)
        except Taken:
            return
        got.append(name)
        ended = time.monotonic() + 5
        while time.monotonic() < ended:
            assert lease.renew()
            time.sleep(0.1)

    threads = [threading.Thread(target=want, args=(str(k),)) for k in range(5)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert len(got) == 1


def test_who_loses_the_lease_uploads_nothing_more(cloud, monkeypatch):
    monkeypatch.setattr(mirror, "RENEW_SECONDS", 0.2)
    told = threading.Event()
    monkeypatch.setattr(mirror.os, "kill", lambda pid, number: told.set())
    with pytest.raises(UserError, match=f"another process has taken {RUN} over: .* is kept in"), claimed(RUN) as place:
        cloud.put("runs/one/.lease", b'{"owner": "other"}')
        assert told.wait(20)
        (pathlib.Path(place) / "record.json").write_text("{}")
    assert list(cloud.files("runs/one")) == [".lease"]
