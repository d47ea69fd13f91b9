"""What the report of a date translator shows."""

from typing import Any

import numpy as np

from jaxdl.data.dates import Dates

# examples that are drawn, one of each of these formats where the split has one
_SHOWN = ("3rd of March 2021", "March 3, '21", "03.03.21", "Wednesday, March 3rd, 2021")


def report(view: Any, data: Dates) -> list:
    """Sections: seeds, exact match by decoder and by format, wrong examples, where the decoder looks."""
    from jaxdl.reports.attention import alignment_section, exact_match_section, mistakes_section
    from jaxdl.reports.comparison import seeds_section

    sections = []
    if len(view.records) > 1:
        seeds = [view.records[i]["seed"] for i in view.done]
        names = [name for name in view.records[view.done[0]]["metrics"] if not name.startswith("train/")]
        sections.append(seeds_section(seeds, {name: view.values(name) for name in names}))
    outputs = view.outputs(view.done[0], "test")
    count = len(outputs["greedy"])  # a smoke run reads a few
    test = {name: array[:count] for name, array in data.splits["test"].items()}
    texts = data.texts["test"][:count]
    best = outputs["hypotheses"][:, 0]
    right = {
        "greedy": (outputs["greedy"] == test["target"]).all(axis=1),
        f"beam of {outputs['hypotheses'].shape[1]}": (best == test["target"]).all(axis=1),
    }
    formats = [data.formats[number] for number in test["format"]]
    sections.append(exact_match_section(right, formats))
    translated = [data.decode(tokens) for tokens in outputs["greedy"]]
    wanted = [data.decode(tokens) for tokens in test["target"]]
    confidence = np.exp(np.asarray(outputs["scores"][:, 0], np.float64))
    sections.append(mistakes_section(texts, translated, wanted, confidence))
    chosen = [formats.index(name) for name in _SHOWN if name in formats] or [0]
    maps = []
    for row in chosen:
        made = data.decode(best[row])
        weights = outputs["attention"][row][: len(made), : len(texts[row])]
        maps.append((texts[row], made, weights))
    sections.append(alignment_section(maps))
    return sections
