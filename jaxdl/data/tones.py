"""Tone digits: a small vocabulary of ten synthetic words, generated when they are needed and always the same.

A word is a glottal buzz through two gliding resonances, much like a vowel: digit d has a path of the first and one of
the second formant, and shares each of them with other digits, so that neither one pitch nor one moment tells it. Voice
(pitch and size of the vocal tract), duration, level, glide and noise vary from take to take.

All that is drawn comes from NumPy's legacy stream, which never changes, and sines from a table, so that every machine
makes the same samples.
"""

import numpy as np

RATE = 8000
VOICES = 8
# takes of each digit by each voice; the first ones are the test's, the next ones the validation's
TAKES = {"test": 4, "validation": 4, "train": 24}
# formant paths, Hz at the beginning and at the end: three of the first formant, four of the second
_FIRST = ((350.0, 350.0), (350.0, 750.0), (750.0, 350.0))
_SECOND = ((1100.0, 1100.0), (1100.0, 2100.0), (2100.0, 1100.0), (2100.0, 2100.0))
_TABLE = 4096
_EDGE = 0.02  # seconds over which a word fades in and out


def tone_digits(seed: int = 0) -> dict[str, dict[str, np.ndarray]]:
    """All takes: split -> recordings one after another, as `jaxdl.data.speech.Recordings.splits` has them."""
    random = np.random.RandomState(seed)
    pitch = 90.0 + 130.0 * (np.arange(VOICES) + random.uniform(0.0, 1.0, VOICES)) / VOICES
    size = 1.0 + 0.15 * random.uniform(-1.0, 1.0, VOICES)
    splits = {}
    for split, takes in TAKES.items():
        waves, labels, voices = [], [], []
        for _ in range(takes):
            for voice in range(VOICES):
                for digit in range(10):
                    waves.append(_word(random, digit, pitch[voice], size[voice]))
                    labels.append(digit)
                    voices.append(voice)
        # in no order, so that the first n of them are of all kinds
        order = random.permutation(len(waves))
        splits[split] = {
            "wave": np.concatenate([waves[i] for i in order]),
            "length": np.array([len(waves[i]) for i in order], np.int32),
            "label": np.array(labels, np.int32)[order],
            "voice": np.array(voices, np.int32)[order],
        }
    return splits


def _word(random: np.random.RandomState, digit: int, pitch: float, size: float) -> np.ndarray:
    """One take of a digit, int16 [n]."""
    count = int(RATE * random.uniform(0.2, 0.42))
    place = np.arange(count) / count
    glide = random.uniform(0.15, 0.45)  # share of the word in which the formants move
    middle = random.uniform(0.35, 0.65)
    moved = np.clip((place - middle) / glide + 0.5, 0.0, 1.0)
    buzz = pitch * random.uniform(0.9, 1.1) * (1.0 + random.uniform(-0.2, 0.2) * place)
    # opening and closing of the glottis: sharp pulses make harmonics beside each formant
    opening = np.square(0.5 + 0.5 * _cosine(np.cumsum(buzz) / RATE))
    voiced = np.zeros(count)
    for path, level in ((_FIRST[digit % 3], 1.0), (_SECOND[digit % 4], random.uniform(0.4, 0.9))):
        begin, end = (hertz * size * random.uniform(0.91, 1.09) for hertz in path)
        voiced += level * opening * _cosine(np.cumsum(begin + (end - begin) * moved) / RATE)
    edge = int(_EDGE * RATE)
    fade = np.minimum(1.0, np.minimum(np.arange(count) + 1, count - np.arange(count)) / edge)
    noise = random.uniform(0.05, 0.9) * random.uniform(-1.0, 1.0, count)
    level = random.uniform(1000.0, 9000.0)
    return np.rint(level * (voiced * fade + noise)).astype(np.int16)


def _cosine(turns: np.ndarray) -> np.ndarray:
    """cos(2π turns) from a table: library cosines differ in their last digit from machine to machine."""
    table = np.rint(np.cos(2.0 * np.pi * np.arange(_TABLE) / _TABLE) * 2**20) / 2**20
    return table[np.floor(turns * _TABLE).astype(np.int64) % _TABLE]
