import numpy as np
import pytest

from jaxdl.data.splits import hold_out, split_by_hash, stratified_order


def test_every_prefix_of_the_stratified_order_has_the_true_proportions():
    labels = np.random.default_rng(0).choice(4, 1000, p=[0.5, 0.3, 0.15, 0.05])
    order = stratified_order(labels)
    np.testing.assert_array_equal(np.sort(order), np.arange(1000))
    share = np.bincount(labels, minlength=4) / 1000
    for length in (10, 100, 333, 900):
        counts = np.bincount(labels[order[:length]], minlength=4)
        assert abs(counts - share * length).max() <= 1.0


def test_the_hold_out_is_fixed_stratified_and_disjoint():
    labels = np.repeat(np.arange(10), 60)
    kept, held = hold_out(labels, 0.1)
    np.testing.assert_array_equal(np.sort(np.concatenate([kept, held])), np.arange(600))
    np.testing.assert_array_equal(np.bincount(labels[held]), np.full(10, 6))
    np.testing.assert_array_equal(held, hold_out(labels, 0.1)[1])
    # the rule may not change: runs of different releases would no longer be comparable
    assert held[:8].tolist() == [1, 8, 14, 17, 48, 52, 62, 64]
    assert len(hold_out(labels[:3], 0.001)[1]) == 1
    with pytest.raises(ValueError, match="at least two"):
        hold_out(labels[:1], 0.1)


def test_a_hash_split_moves_no_example_when_others_come():
    names = [f"class/{i}.png" for i in range(2000)]
    labels = np.arange(2000) % 2
    split = split_by_hash(names, labels)
    sizes = {name: len(members) for name, members in split.items()}
    assert abs(sizes["train"] - 1600) < 60 and abs(sizes["validation"] - 200) < 45 and sum(sizes.values()) == 2000
    fewer = split_by_hash(names[:1000], labels[:1000])
    for name in split:
        np.testing.assert_array_equal(fewer[name], split[name][split[name] < 1000])


def test_a_small_hash_split_leaves_no_part_empty():
    for seed in range(40):
        names = [f"{seed}-{i}" for i in range(4)]
        labels = np.array([0, 0, 1, 1])
        split = split_by_hash(names, labels)
        assert all(len(members) for members in split.values())
        np.testing.assert_array_equal(np.sort(np.concatenate(list(split.values()))), np.arange(4))
        assert set(labels[split["train"]]) == {0, 1}
    with pytest.raises(ValueError, match="three different"):
        split_by_hash(["a", "a", "b"], np.zeros(3))


def test_equal_names_stay_together():
    names = [f"{i // 3}" for i in range(300)]
    for members in split_by_hash(names, np.zeros(300, int)).values():
        together = np.bincount(members // 3, minlength=100)
        assert set(together.tolist()) <= {0, 3}
