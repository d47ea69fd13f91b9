"""Runs that are rows of one program are the runs they would be alone."""

import dataclasses

import pytest
import tiny
from runs import Listener, checkpoints, files, leaves, record, result, rows, train

from jaxdl.engine.executables import Executables
from jaxdl.engine.folder import RunFolder
from jaxdl.engine.options import Options
from jaxdl.engine.signals import Interrupted
from jaxdl.engine.together import Member, fit_together, share_programs, untouched
from jaxdl.engine.watcher import Silent

# the bits that users get
pytestmark = pytest.mark.optimized

RATES = (0.05, 0.2)


def patient(rate):
    """Seeds lose patience at different evaluations."""
    return tiny.regression(tiny.Regression(noise=0.8), 1, tiny.train_config(eval_every=4), rate)


def phases(rate):
    experiment = tiny.two_phases()
    first, second = experiment.phases
    second = dataclasses.replace(second, hyper={"learning_rate": rate})
    return dataclasses.replace(experiment, phases=(first, second))


def config(experiment, rate):
    return {**leaves(experiment), "rate": rate}


def together(make, root, watcher=None, mode="map", rates=RATES):
    experiments = [make(rate) for rate in rates]
    members = [
        Member(experiment, config(experiment, rate), RunFolder(root / str(rate)).lock())
        for experiment, rate in zip(experiments, rates, strict=True)
    ]
    try:
        options = Options("", seed=1, seeds=2, seeds_mode=mode)
        return fit_together(members, options, watcher or Silent(), Executables())
    finally:
        for member in members:
            member.folder.unlock()


@pytest.mark.parametrize("make", [patient, phases])
def test_rows_are_the_runs_alone(make, tmp_path):
    runs = together(make, tmp_path / "rows")
    for rate, run in zip(RATES, runs, strict=True):
        alone = train(
            make(rate), tmp_path / f"alone{rate}", config=config(make(rate), rate), seed=1, seeds=2, seeds_mode="map"
        )
        assert run.summary == alone.summary
        for seed in (1, 2):
            ours, theirs = (root / f"seed{seed}" for root in (tmp_path / "rows" / str(rate), tmp_path / f"alone{rate}"))
            assert result(ours) == result(theirs)
            assert files(ours)[1:3] == files(theirs)[1:3]
            assert checkpoints(ours)[-1] == checkpoints(theirs)[-1]
        assert not (tmp_path / "rows" / str(rate) / "checkpoints").exists()


def test_interrupted_rows_go_on_alone(tmp_path):
    with pytest.raises(Interrupted):
        together(lambda rate: tiny.regression(rate=rate), tmp_path, Listener(30))
    for rate in RATES:
        assert not untouched(RunFolder(tmp_path / str(rate)), range(1, 3))
        listener, experiment = Listener(), tiny.regression(rate=rate)
        for mode, place in (("map", tmp_path / str(rate)), ("map", tmp_path / f"alone{rate}")):
            train(experiment, place, listener, config(experiment, rate), seed=1, seeds=2, seeds_mode=mode)
        assert [int(line.split()[-1]) >= 30 for line in listener.lines if line.startswith("resuming")] == [True]
        for seed in (1, 2):
            assert result(tmp_path / str(rate) / f"seed{seed}") == result(tmp_path / f"alone{rate}" / f"seed{seed}")


def test_a_row_that_diverges_takes_no_other_with_it(tmp_path):
    runs = together(lambda rate: tiny.regression(rate=rate), tmp_path / "rows", rates=(0.05, 1e8))
    assert [[record["status"] for record in run.records] for run in runs] == [["done"] * 2, ["diverged"] * 2]
    train(tiny.regression(rate=1e8), tmp_path / "alone", seed=1, seeds=2, seeds_mode="map")
    for k, seed in enumerate((1, 2)):
        assert runs[1].records[k]["steps"] == record(tmp_path / "alone" / f"seed{seed}")["steps"]


def test_vmapped_rows_agree_over_the_first_steps(tmp_path):
    def short(rate):
        return tiny.regression(train=tiny.train_config(steps=3, log_every=1, eval_every=1), rate=rate)

    together(short, tmp_path / "rows", mode="vmap")
    for rate in RATES:
        train(short(rate), tmp_path / str(rate), seed=1)
        for a, b in zip(rows(tmp_path / "rows" / str(rate) / "seed1"), rows(tmp_path / str(rate)), strict=True):
            assert a["loss"] == pytest.approx(b["loss"], rel=1e-5, abs=1e-5)


def test_who_may_share_a_program():
    noisy = tiny.regression(tiny.Regression(noise=0.3))
    experiments = [tiny.regression(), tiny.regression(rate=0.2), noisy, tiny.regression(tiny.Regression(adam=True))]
    for mode in ("map", "vmap"):
        assert share_programs(Options("", seeds=2, seeds_mode=mode), experiments) == [True, True, False, False]
    assert not any(share_programs(Options("", seeds=2, seeds_mode="loop"), experiments))
    assert not any(share_programs(Options("", seeds=2), experiments))  # on a CPU: one after another
