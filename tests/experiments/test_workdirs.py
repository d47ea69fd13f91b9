"""`--workdir=gs://...` against a stand-in for the storage: leases, copies, uploads that fail, and what is said."""

import errno
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import threading
import time

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).parent))

import storage

from experiments import bucket, cli, evaluate, mirror, sweep, workdirs
from experiments.bucket import Bucket
from experiments.workdirs import borrowed, claimed
from jaxdl.engine.folder import Taken
from jaxdl.errors import UserError

pytest.importorskip("google.cloud.storage", reason="google-cloud-storage is not installed ([gcs] extra)")

from google.api_core.exceptions import PreconditionFailed

RUN = "gs://bucket/runs/one"


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
        ("gs://bucket/a/..", "gs://bucket/a/.. names no folder"),
        ("gs://-/a", "gs://-/a names no bucket"),
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
    monkeypatch.setattr(workdirs, "RENEW_SECONDS", 0.3)
    cloud.put("runs/one/config.json", b"{}")
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


@pytest.mark.parametrize("skew", [-3600, 0, 3600])  # the storage's clock, not this machine's
def test_a_dead_holders_lease_ends(skew, cloud, monkeypatch, tmp_path, capsys):
    cloud.skew = skew
    monkeypatch.setattr(bucket, "RENEW_SECONDS", 0.3)
    dead = bucket.Lease(Bucket(RUN), "dead")
    dead.take(print)
    began = time.monotonic()
    monkeypatch.setattr(bucket, "LEASE_SECONDS", 2.5)
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


@pytest.mark.parametrize(
    "renew_seconds", [0.2, 1e6]
)  # told while it trains; or silent for too long, and told at the end
def test_who_loses_the_lease_uploads_nothing_more(renew_seconds, cloud, monkeypatch):
    monkeypatch.setattr(workdirs, "RENEW_SECONDS", renew_seconds)
    told = threading.Event()
    before = signal.signal(signal.SIGTERM, lambda *_: told.set())
    lost = f"not uploaded: another process trains in {RUN} now; the run is kept in .*one$"
    try:
        with pytest.raises(UserError, match=lost), claimed(RUN) as place:
            cloud.put("runs/one/.lease", b'{"owner": "other"}')
            assert renew_seconds > 1 or told.wait(20)
            (pathlib.Path(place) / "record.json").write_text("{}")
    finally:
        signal.signal(signal.SIGTERM, before)
    assert list(cloud.files("runs/one")) == [".lease"]


def test_the_lease_is_renewed_while_the_last_upload_goes_on(cloud, monkeypatch):
    monkeypatch.setattr(workdirs, "RENEW_SECONDS", 0.2)
    cloud.refuse = lambda method, name: time.sleep(1.0 if name.endswith("one/a") else 0)
    with claimed(RUN) as place:
        (pathlib.Path(place) / "a").write_text("a")
        cloud.log.clear()
    names = [name for _, name in cloud.log]
    assert names[: names.index("runs/one/a")].count("runs/one/.lease") >= 3


def test_an_answer_that_was_lost_is_no_theft(cloud):
    lease = bucket.Lease(Bucket(RUN), "me")
    lease.take(print)
    cloud.put("runs/one/.lease", cloud.objects["runs/one/.lease"].content)  # its own request, of which it knows nothing
    assert lease.renew() and not lease.lost
    cloud.put("runs/one/.lease", cloud.objects["runs/one/.lease"].content)
    lease.release()
    assert cloud.files("runs/one") == {}


def test_a_large_file_goes_up_in_pieces_that_name_what_they_replace(cloud, monkeypatch, tmp_path):
    monkeypatch.setattr(bucket, "_CHUNK", 4 << 20)
    content, there = os.urandom((9 << 20) + 5), Bucket(RUN)
    first = there.upload("a", content, 0)
    assert len(cloud.begun) == 1 and cloud.files("runs/one")["a"] == content
    assert there.download("a", first, tmp_path / "a") and (tmp_path / "a").read_bytes() == content
    with pytest.raises(PreconditionFailed):
        there.upload("a", content[::-1], first + 1)
    assert there.upload("a", content[::-1], first) > first
    assert not there.download("a", first, tmp_path / "a")


def test_an_object_that_is_replaced_while_it_is_read_is_not_gone(cloud):
    cloud.put("runs/one/a", b"old")
    replaced = []

    def replace(name):
        if not replaced:
            replaced.append(cloud.put(name, b"new"))
        return len(replaced) == 1 and not replaced.append(None)

    cloud.before_reading = replace
    content, generation, _ = Bucket(RUN).read("a")
    assert content == b"new" and generation == cloud.objects["runs/one/a"].generation
    assert Bucket(RUN).generation("a") == generation and Bucket(RUN).generation("b") == 0


def test_a_lease_that_was_lost_in_silence_stops_the_next_upload(cloud, monkeypatch):
    monkeypatch.setattr(workdirs, "RENEW_SECONDS", 1e6)
    monkeypatch.setattr(workdirs, "PUSH_SECONDS", 0.1)
    with pytest.raises(UserError, match="another process trains"), claimed(RUN) as place:
        cloud.put("runs/one/.lease", b'{"owner": "other"}')
        (pathlib.Path(place) / "new").write_text("")
        time.sleep(1)
        assert list(cloud.files("runs/one")) == [".lease"]


def test_while_an_upload_goes_on_after_ctrl_c_the_lease_is_not_given_back(cloud, monkeypatch):
    monkeypatch.setattr(workdirs, "PUSH_SECONDS", 0.1)
    cloud.refuse = lambda method, name: time.sleep(2 if name.endswith("one/a") else 0)
    stop = bucket.Repeated.stop

    def interrupted(self):
        if self._seconds == 0.1:
            raise KeyboardInterrupt
        stop(self)

    monkeypatch.setattr(bucket.Repeated, "stop", interrupted)
    with pytest.raises(KeyboardInterrupt), claimed(RUN) as place:
        (pathlib.Path(place) / "a").write_text("a")
        time.sleep(0.5)
    assert list(cloud.files("runs/one")) == [".lease"]


def trained_here(cloud, steps=(5,)):
    """A run with some checkpoints, in the bucket and in this machine's copy."""
    with claimed(RUN) as place:
        (pathlib.Path(place) / "config.json").write_text("{}")
        for step in steps:
            save(place, step)
    return pathlib.Path(place)


def save(place, step):
    for name in ("a", "_CHECKPOINT_METADATA"):
        path = pathlib.Path(place) / "checkpoints" / str(step) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{name} of {step}")


def test_a_copy_that_failed_changes_nothing_in_the_bucket(cloud, monkeypatch, tmp_path):
    here = os.environ["XDG_CACHE_HOME"]
    place = trained_here(cloud)
    (place / "record.json").write_text("stale")
    another_machine(monkeypatch, tmp_path)
    with claimed(RUN) as other:
        (pathlib.Path(other) / "record.json").write_text("newer")
        save(other, 6)
    there = cloud.files("runs/one")
    monkeypatch.setenv("XDG_CACHE_HOME", here)
    whole = Bucket.download
    for error in (OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()):

        def fails(self, name, generation, path, error=error):
            if name.startswith("checkpoints/6"):
                raise error
            return whole(self, name, generation, path)

        monkeypatch.setattr(Bucket, "download", fails)
        with pytest.raises(type(error)), claimed(RUN):
            raise AssertionError
        assert cloud.files("runs/one") == there
    monkeypatch.setattr(Bucket, "download", whole)
    with claimed(RUN) as place:
        assert files(place) == there
    assert cloud.files("runs/one") == there


def test_what_was_not_uploaded_survives_a_reader_and_a_cut(cloud, monkeypatch, tmp_path):
    place = trained_here(cloud)
    for step, refused in ((9, "9/_CHECKPOINT_METADATA"), (10, "10/a")):
        cloud.refuse = lambda method, name, refused=refused: name.endswith(refused)
        with pytest.raises(UserError, match="the same command uploads it"), claimed(RUN):
            save(place, step)
        assert not [name for name in mirror.whole(Bucket(RUN).listing()) if f"/{step}/" in name]
        cloud.refuse = lambda method, name: False
    with borrowed(RUN) as copy:
        (pathlib.Path(copy) / "evaluation.json").write_text("theirs")
    with claimed(RUN) as place:
        assert sorted(os.listdir(pathlib.Path(place) / "checkpoints")) == ["10", "5", "9"]
        assert files(place)["evaluation.json"] == b"theirs"
    assert cloud.files("runs/one") == files(place)


def test_what_others_trained_wins_and_what_was_here_is_set_aside(cloud, monkeypatch, tmp_path, capsys):
    here = os.environ["XDG_CACHE_HOME"]
    place = trained_here(cloud)
    save(place, 9)
    another_machine(monkeypatch, tmp_path)
    with claimed(RUN) as other:
        save(other, 7)
        shutil.rmtree(pathlib.Path(other) / "checkpoints" / "5")
    monkeypatch.setenv("XDG_CACHE_HOME", here)
    with claimed(RUN) as place:
        assert os.listdir(pathlib.Path(place) / "checkpoints") == ["7"]
    another_machine(monkeypatch, tmp_path)
    with claimed(RUN) as other:
        save(other, 8)
        shutil.rmtree(pathlib.Path(other) / "checkpoints" / "7")
    monkeypatch.setenv("XDG_CACHE_HOME", here)
    with claimed(RUN) as place:  # this time there is nothing to set aside
        assert os.listdir(pathlib.Path(place) / "checkpoints") == ["8"]
    aside = re.search(r"kept in (.*one\.before)", capsys.readouterr().err)[1]
    assert sorted(os.listdir(pathlib.Path(aside) / "checkpoints")) == ["5", "9"]


def test_a_removed_checkpoint_leaves_nothing_behind_where_an_upload_failed(cloud):
    cloud.refuse = lambda method, name: name.endswith("6/_CHECKPOINT_METADATA")
    with pytest.raises(UserError), claimed(RUN) as place:
        save(place, 5)
        save(place, 6)
    cloud.refuse = lambda method, name: False
    with claimed(RUN) as place:
        shutil.rmtree(pathlib.Path(place) / "checkpoints" / "5")
    assert sorted(cloud.files("runs/one")) == ["checkpoints/6/_CHECKPOINT_METADATA", "checkpoints/6/a"]


def test_a_copy_that_lost_files_removes_none(cloud):
    place = trained_here(cloud, (5, 6))
    there = cloud.files("runs/one")
    shutil.rmtree(place / "checkpoints")
    with claimed(RUN) as place:
        assert files(place) == there
    assert cloud.files("runs/one") == there


def test_a_folder_that_was_copied_up_by_hand_is_read(cloud):
    for name in (".lock", "config.json", ".record.json.3", "checkpoints/4.damaged/a"):
        cloud.put(f"runs/one/{name}", b"{}")
    with claimed(RUN) as place:
        assert list(files(place)) == ["config.json"]
    assert len(cloud.files("runs/one")) == 4


def test_a_folder_of_runs_is_no_run(cloud):
    with claimed(RUN), pytest.raises(UserError, match="gs://bucket/runs: choose another"), claimed("gs://bucket/runs"):
        pass
    with pytest.raises(UserError, match="gs://bucket/runs is no run folder"), borrowed("gs://bucket/runs"):
        pass


def test_what_a_reader_cannot_upload_is_kept(cloud):
    trained_here(cloud)
    cloud.refuse = lambda method, name: True
    with (
        pytest.raises(UserError, match="not uploaded: .* what was made is kept in .*one") as error,
        borrowed(RUN) as copy,
    ):
        (pathlib.Path(copy) / "evaluation.json").write_text("{}")
    kept = pathlib.Path(str(error.value).rsplit(" ", 1)[1])
    assert (kept / "evaluation.json").read_text() == "{}"
    shutil.rmtree(kept.parent)
