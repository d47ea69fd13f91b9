"""The README's promises: its numbers come from results files, and its commands exist."""

import hashlib
import json
import pathlib
import re

import pytest

from experiments import ledger, recipe_files

ROOT = pathlib.Path(__file__).resolve().parents[1]
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")


def test_there_are_exactly_two_set_up_commands():
    installs = [line for line in TEXT.splitlines() if line.startswith("pip install")]
    assert installs == [
        "pip install -c constraints.txt -e . && python -m experiments.train",
        "pip install -c constraints.txt -e '.[test]' && pytest",
    ]


def test_the_tables_are_what_the_results_files_say():
    assert ledger.rendered(TEXT) == TEXT


@pytest.mark.parametrize("key", sorted(ledger.read()))
def test_a_result_has_what_makes_it_checkable(key):
    found = ledger.read()[key]
    settings = json.dumps(found["config"], sort_keys=True).encode()
    assert found["config_digest"] == hashlib.sha256(settings).hexdigest()
    assert found["chosen"] and found["seeds"] and found["git"]["commit"] and found["program"]["device_kind"]
    finished = len(found["seeds"]) - len(found["diverged"])
    assert all(len(values) == finished for values in found["metrics"].values())


def test_every_command_names_a_binary_and_a_recipe_that_exist():
    for name in re.findall(r"python -m experiments\.(\w+)", TEXT):
        assert name == "NAME" or (ROOT / "experiments" / f"{name}.py").exists(), name
    for title in re.findall(r"--recipe=([\w:]+)", TEXT):
        name, _, variant = title.partition(":")
        assert name in ("NAME", "list", *recipe_files.names()), title
        assert not variant or variant in recipe_files.summary(name).variants, title


def test_every_variant_says_what_it_is():
    for name in recipe_files.names():
        for variant, line in recipe_files.summary(name).variants.items():
            assert line and not line.startswith("variant of"), f"{name}:{variant}"


def test_every_recipe_and_every_linked_file_is_there():
    for name in recipe_files.names():
        assert f"`{name}`" in TEXT, name
    for target in re.findall(r"\]\(([^)#]+)\)", TEXT):
        assert target.startswith("http") or (ROOT / target).exists(), target
