"""Texts: corpora, vocabularies, and the three ways of cutting them into batches."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdl.data import corpora
from jaxdl.data.text import TextConfig, Vocabulary, load_text, read_text
from jaxdl.data.text_source import Streams, WholeText, Windows
from jaxdl.errors import UserError

KEY = jax.random.key(5)
TEXT = np.arange(1003) % 251


def test_vocabulary_is_sorted_and_inverts():
    vocabulary = Vocabulary("hello\nwörld€")
    assert vocabulary.characters == "\ndehlorwö€"
    tokens = vocabulary.encode("red\n€")
    assert tokens.dtype == np.uint8 and vocabulary.decode(tokens) == "red\n€"
    many = Vocabulary("".join(map(chr, range(1000, 1300))))
    assert many.encode(chr(1299)).dtype == np.int32 and many.decode(many.encode(chr(1299))) == chr(1299)


@pytest.mark.parametrize("text", ["ab\nab\naz", "ab\nab\na ", "ab\nab\na\U0001f600"])
def test_a_character_never_seen_is_named_with_its_line(text):
    said = rf"story.txt has the character .*U\+{ord(text[-1]):04X}.* in line 3.* knows 3 characters"
    with pytest.raises(UserError, match=said):
        Vocabulary("ab\n").encode(text, "story.txt")


def test_a_text_of_one_line_needs_no_line_number():
    with pytest.raises(UserError, match=r"line 7 has the character 'z' \(U\+007A\), which"):
        Vocabulary("ab\n").encode("abz", "dates.txt, line 7")


def test_a_text_of_ones_own_is_not_passed_over(cache, tmp_path):
    story = tmp_path / "story.txt"
    story.write_text("a story")
    for place in (story, tmp_path, tmp_path / "none"):
        with pytest.raises(UserError, match=r"stdlib comes with jaxdl .*--data\.name=file"):
            load_text(TextConfig(dir=str(place)))
    (tmp_path / "tiny_shakespeare" / "1.0.0").mkdir(parents=True)
    (tmp_path / "tiny_shakespeare" / "1.0.0" / "dataset_info.json").write_text("{}")
    # a folder of prepared sets may hold another recipe's
    assert load_text(TextConfig(dir=str(tmp_path))).name == "stdlib"


def test_embedded_texts_are_fixed_and_split_by_document(cache):
    for name, documents in (("stdlib", corpora.stdlib_documents()), ("pydoc_topics", corpora.pydoc_documents())):
        corpus = load_text(TextConfig(name=name))
        again = load_text(TextConfig(name=name, limit=10))
        assert corpus.fingerprint == again.fingerprint and len(again.splits["train"]) == 10_000
        texts = {split: corpus.vocabulary.decode(tokens) for split, tokens in corpus.splits.items()}
        assert set(texts) == {"train", "validation", "test"}
        assert sum(map(len, texts.values())) == sum(map(len, documents.values()))
        for document in documents.values():
            assert sum(document in text for text in texts.values()) >= 1
        assert len(texts["train"]) > 5 * len(texts["test"]) / 2 and len(corpus.vocabulary) < 100
        assert corpus.vocabulary.characters[corpus.start] == "\n"


def test_without_library_source_it_says_what_to_choose(monkeypatch):
    monkeypatch.setattr(corpora, "_source", lambda name: None)
    with pytest.raises(UserError, match="--data.name=pydoc_topics"):
        corpora.stdlib_documents()


def test_tiny_shakespeare_has_nanogpts_split(real_data, shared_cache):
    if not (real_data / "tiny_shakespeare").is_dir():
        pytest.skip(f"no tiny_shakespeare in {real_data}")
    corpus = load_text(TextConfig(name="tiny_shakespeare", dir=str(real_data)))
    assert {split: len(text) for split, text in corpus.splits.items()} == {"train": 1_003_854, "validation": 111_540}
    assert len(corpus.vocabulary) == 65
    assert corpus.vocabulary.decode(corpus.splits["train"][:14]) == "First Citizen:"


def test_a_set_that_is_not_prepared_names_the_command(cache, tmp_path):
    with pytest.raises(UserError, match="experiments.prepare --dataset=tiny_shakespeare --data.dir"):
        load_text(TextConfig(name="tiny_shakespeare", dir=str(tmp_path)))


def test_tiny_shakespeare_is_prepared_from_its_file(cache, tmp_path):
    from jaxdl.data.prepare import prepare

    source, target = tmp_path / "files", tmp_path / "prepared"
    source.mkdir()
    text = "".join(f"Line {i} of a play.\n" for i in range(100))
    (source / "input.txt").write_text(text)
    said = prepare("tiny_shakespeare", str(target), str(source))
    first = int(0.9 * len(text))
    assert f"{first} train" in said
    corpus = load_text(TextConfig(name="tiny_shakespeare", dir=str(target)))
    assert corpus.vocabulary.decode(np.concatenate([corpus.splits["train"], corpus.splits["validation"]])) == text
    assert len(corpus.splits["train"]) == first


def test_own_file(tmp_path):
    path = tmp_path / "story.txt"
    text = "Zwölf Boxkämpfer jagen Viktor\r\n" * 100
    path.write_bytes(text.encode())
    corpus = load_text(TextConfig(name="file", dir=str(path)))
    whole = corpus.vocabulary.decode(np.concatenate([corpus.splits[s] for s in ("train", "validation", "test")]))
    assert whole == text.replace("\r\n", "\n") and len(corpus.splits["train"]) == int(0.9 * len(whole))


@pytest.mark.parametrize(
    ("content", "said"),
    [(None, "cannot be read"), (b"", "is empty"), (b"\xff\xfe\x00a", "no UTF-8"), (b"short", "at least 1000")],
)
def test_a_bad_file_is_one_line(tmp_path, content, said):
    path = tmp_path / "x.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=said) as error:
        load_text(TextConfig(name="file", dir=str(path)))
    assert "\n" not in str(error.value)
    if content != b"short":
        with pytest.raises(UserError, match=said):
            read_text(str(path))


def test_each_epoch_of_windows_reads_the_text_once_from_its_own_offset():
    text, length = np.arange(1000, dtype=np.int32), 16
    source = Windows.of(text, 6, length)
    assert source.size == 61
    batch_of = jax.jit(source.batch)  # outside a program, each of its loops is compiled again for each batch
    batches = [batch_of(step, KEY) for step in range(61)]
    tokens = np.concatenate([np.asarray(batch["tokens"]) for batch in batches]).reshape(6, 61, length)
    target = np.concatenate([np.asarray(batch["target"]) for batch in batches]).reshape(6, 61, length)
    np.testing.assert_array_equal(target, tokens + 1)
    offsets = tokens.min(axis=(1, 2))
    for epoch, offset in zip(tokens, offsets, strict=True):
        np.testing.assert_array_equal(np.sort(epoch.ravel()), offset + np.arange(61 * length))
    assert len(set(offsets.tolist())) > 2
    assert len({tuple(epoch[:, 0] - offset) for epoch, offset in zip(tokens, offsets, strict=True)}) == 6
    assert batches[0]["tokens"].dtype == jnp.int32 and np.asarray(batches[0]["weight"]).all()


def test_windows_do_not_depend_on_the_number_of_devices():
    source = Windows.of(TEXT.astype(np.uint8), 6, 16)
    whole = source.batch(7, KEY)
    parts = [source.batch(7, KEY, shard, 3) for shard in range(3)]
    np.testing.assert_array_equal(np.concatenate([b["tokens"] for b in parts]), whole["tokens"])
    np.testing.assert_array_equal(np.concatenate([b["row"] for b in parts]), np.arange(6))
    shortest = Windows.of(TEXT[:17], 2, 16)
    np.testing.assert_array_equal(shortest.batch(3, KEY)["tokens"], np.stack([TEXT[:16]] * 2))


def test_streams_run_through_the_text_side_by_side():
    rows, length = 4, 10
    source = Streams.of(TEXT, rows, length)
    epoch = source.num_batches
    assert epoch == 25 and source.size == 1000
    offsets, batch_of = set(), jax.jit(source.batch)
    for e in range(6):
        chunks = [batch_of(e * epoch + t, KEY) for t in range(epoch)]
        read = np.concatenate([np.asarray(c["tokens"]) for c in chunks], axis=1)  # [rows, epoch * length]
        offset = int(read[0, 0])
        offsets.add(offset)
        np.testing.assert_array_equal(
            read.reshape(-1), TEXT[offset : offset + 1000]
        )  # each stream its own contiguous part
        np.testing.assert_array_equal(np.asarray(chunks[3]["target"]), (np.asarray(chunks[3]["tokens"]) + 1) % 251)
        resets = np.stack([np.asarray(c["reset"]) for c in chunks])
        assert resets[0].all() and not resets[1:].any() and resets.shape == (epoch, rows)
    assert offsets <= {0, 1, 2} and len(offsets) > 1
    shards = [source.batch(8, KEY, s, 2)["tokens"] for s in range(2)]
    np.testing.assert_array_equal(np.concatenate(shards), source.batch(8, KEY)["tokens"])


@pytest.mark.parametrize(("length", "context"), list(itertools.product([1, 7, 100, 1003, 5000], [0, 5, 40])))
def test_the_whole_text_is_predicted_exactly_once(length, context):
    source = WholeText.of(TEXT, 4, length, 250, context)
    seen, before, batch_of = [], [], jax.jit(source.batch)
    for step in range(source.num_batches + 1):
        batch = {name: np.asarray(value) for name, value in batch_of(step, KEY).items()}
        for row in range(4):
            counted = batch["weight"][row] > 0
            assert not counted.any() or batch["mask"][row] == 1
            seen += batch["target"][row][counted].tolist()
            if counted.any():
                at = np.flatnonzero(counted)
                np.testing.assert_array_equal(at, np.arange(at[0], at[-1] + 1))
                before.append(int(at[0]))
                np.testing.assert_array_equal(batch["tokens"][row][1 : at[-1] + 1], batch["target"][row][: at[-1]])
    assert seen == TEXT.tolist()
    assert before[0] == 0
    # rows after the first have read `context` characters before the first that counts (as far as there are any)
    assert all(b >= min(context, k * length) for k, b in enumerate(before))


def test_a_text_too_short_says_what_to_change():
    for make in (lambda: Windows.of(TEXT[:16], 2, 16), lambda: Streams.of(TEXT[:32], 2, 16)):
        with pytest.raises(UserError, match="--data.length"):
            make()
    with pytest.raises(UserError, match="empty"):
        WholeText.of(TEXT[:0], 2, 16, 0)
    with pytest.raises(ValueError, match="evenly"):
        Windows.of(TEXT, 6, 16).batch(0, KEY, 0, 4)
