"""The report of an agent: what its sections hold and what its pictures show."""

import io
import math

import numpy as np
import pytest

from jaxdl.reports import agents
from jaxdl.reports.page import Animation, Section, encode_gif, write_report

ROWS = ("S.G", ".#X")


def runs(seeds=3):
    """Metrics rows of agents that get better."""
    found = []
    for seed in range(seeds):
        rows = []
        for step in range(10, 101, 10):
            rows.append({"step": step, "phase": "train", "split": "train", "return": 3.0 * step + seed, "loss": 1.0})
            rows.append({"step": step, "phase": "train", "split": "validation", "return": 4.0 * step + 10 * seed})
        found.append(rows)
    return found


def drawn(section, name):
    """The one axes (or the first) of a figure of a section."""
    (figure,) = [item for item in section.items if getattr(item, "name", "") == name]
    return figure.draw().axes


def test_returns_stand_against_environment_steps_with_their_interval():
    section = agents.return_section(runs(), 512, [100, 90, 100])
    axes = drawn(section, "return")[0]
    lines = {line.get_label(): line.get_xydata() for line in axes.lines}
    greedy = lines["greedy episodes"]
    assert greedy[-1].tolist() == [51200, 410] and "environment steps" in axes.get_xlabel()
    assert lines["reported"][1].tolist() == [90 * 512, 370]
    band = axes.collections[1].get_paths()[0].vertices
    # three seeds at 400, 410, 420: half a width of t(0.975, 2) * 10 / sqrt(3)
    assert band[:, 1].max() == pytest.approx(410 + 4.302653 * 10 / math.sqrt(3), rel=1e-4)
    assert not agents.return_section([[{"step": 1, "split": "train", "loss": 1.0}]], 5).items


def test_histograms_count_every_episode():
    lengths = [np.array([500, 500, 20]), np.array([500, 130, 499])]
    section = agents.episodes_section(lengths, lengths, 500)
    axes = drawn(section, "episode_lengths")[0]
    assert sum(patch.get_height() for patch in axes.patches) == 6
    assert "50 % last until the time limit" in section.text and len(section.items) == 1
    returns = [np.array([0.5, 0.7, -1.0]), np.array([0.1, 0.2, 0.9])]
    assert len(agents.episodes_section(returns, lengths, 500).items) == 2


def test_the_policy_map_counts_optimal_actions():
    optimal = np.zeros((6, 4))
    optimal[:, 1] = 1.0
    learned = optimal.copy()
    learned[1] = [2.0, 0.0, 0.0, 0.0]
    section = agents.policy_section(ROWS, learned, optimal)
    assert "optimal action on 2 of 3 floor cells" in section.text and "2 at most" in section.text
    axes = drawn(section, "policy")
    assert [a.get_title() for a in axes[:2]] == ["learned", "optimal"]
    assert {text.get_text() for text in axes[0].texts} >= {"G", "X", "S", "1.00", "2.00"}


def test_cartpole_leans_the_way_its_pole_does():
    right, left = agents.cartpole_frames(np.array([[1.0, 0, 0.2, 0], [-1.0, 0, -0.2, 0]]))
    assert right.shape == (160, 400, 3) and right.dtype == np.uint8

    def column(frame, color):
        return np.argwhere(np.abs(frame.astype(int) - color).sum(axis=-1) < 60)[:, 1].mean()

    pole, cart = (213, 94, 0), (0, 114, 178)
    assert column(right, cart) > 260 and column(right, pole) > column(right, cart) + 5
    assert column(left, cart) < 140 and column(left, pole) < column(left, cart) - 5


def test_the_grid_shows_where_the_agent_is():
    frames = agents.gridworld_frames(ROWS, np.eye(6)[[0, 1, 2]], size=20)
    assert frames.shape == (3, 40, 60, 3)
    for cell, frame in enumerate(frames):
        assert frame[10, 20 * cell + 10].tolist() == [0, 114, 178]


def test_channels_have_colours_and_the_first_one_wins():
    images = np.zeros((1, 10, 10, 4), bool)
    images[0, 2, 3, 0] = images[0, 2, 3, 3] = images[0, 5, 5, 3] = True
    (frame,) = agents.channel_frames(images, size=4)
    assert frame.shape == (40, 40, 3)
    player, brick, empty = frame[9, 13].tolist(), frame[21, 21].tolist(), frame[0, 0].tolist()
    assert len({tuple(player), tuple(brick), tuple(empty)}) == 3


def test_a_page_embeds_a_gif_that_plays(tmp_path):
    from PIL import Image

    frames = agents.channel_frames(np.eye(100).reshape(100, 10, 10, 1)[:12])
    section = Section("The agent", [Animation("agent", "It moves.", lambda: frames, 0.1)])
    page = write_report(tmp_path, "run", {}, [section]).read_text()
    data = (tmp_path / "plots" / "agent.gif").read_bytes()
    assert "data:image/gif;base64," in page and 'alt="It moves."' in page and data[:6] == b"GIF89a"
    with Image.open(io.BytesIO(data)) as image:
        assert image.n_frames == 12 and image.info["duration"] == 100
        image.seek(7)
        np.testing.assert_allclose(np.asarray(image.convert("RGB"), int), frames[7], atol=8)
    assert len(encode_gif(frames)) < 20_000
    with pytest.raises(ValueError, match="used twice"):
        write_report(tmp_path, "run", {}, [section, section])
