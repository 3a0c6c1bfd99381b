"""What is said before training of settings that defeat each other."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from t2x_core.cli.main import main
from t2x_core.data.mixture import MixedData
from t2x_core.encoders.byte_words import ByteWords
from t2x_core.encoders.encoder_config import ByteWordsConfig
from t2x_core.errors import UserError
from t2x_core.run_facts import trained_shape
from t2x_core.training.callbacks.validation import Validation
from t2x_core.training.remarks import cut_captions, epochs, unseen_shapes, warm_up
from t2x_core.types import Bucket
from t2x_core.wording import rounded
from tests.conftest import TINY


class Data(MixedData):
    """Of sources of which only the shapes matter."""

    def __init__(self, buckets: list[Bucket], batch: int, steps: int, workers: int = 0) -> None:
        source = SimpleNamespace(buckets=lambda: buckets)
        module = SimpleNamespace(train_source=lambda: source)
        super().__init__(
            {"t": module},  # type: ignore[dict-item]
            {"t": 1.0},
            seed=0,
            batch_size=lambda task, shape: batch,
            accumulation=1,
            max_steps=steps,
            workers=workers,
        )


class Sized(SimpleNamespace):
    def __len__(self) -> int:
        return sum(bucket.count for bucket in self.buckets())


def test_epochs_are_samples_taken_over_samples_there():
    buckets = [Bucket(1, 44, 24, 1200), Bucket(1, 36, 28, 614)]
    sources = {"t": Sized(buckets=lambda: buckets)}
    assert epochs(6260, Data(buckets, 8, 6260), sources) == pytest.approx({"t": 6260 * 8 / 1814})


@pytest.mark.parametrize(
    ("warmup", "steps", "words"),
    [
        (1000, 200, "at 20% of lr"),
        (200, 200, "at 100% of lr"),
        (150, 200, "takes 75% of the run"),
        (100, 200, None),
    ],
)
def test_a_warm_up_that_is_too_long_is_said(warmup, steps, words):
    lines = list(warm_up(warmup, steps))
    assert bool(lines) == (words is not None)
    assert words is None or words in lines[0]


def test_a_commonest_shape_that_no_step_takes_is_said():
    buckets = [Bucket(1, 44, 24, 60), Bucket(1, 36, 28, 40), Bucket(1, 28, 36, 50)]
    sources = {"t": Sized(buckets=lambda: buckets)}
    for steps in range(1, 12):
        data = Data(buckets, 10, steps)
        order = data.order(sources)
        seen = any(order.keys(step)[0].bucket == 0 for step in range(steps))
        assert bool(list(unseen_shapes(steps, data, sources))) != seen
    assert not list(unseen_shapes(12, Data(buckets, 10, 12), sources))


def test_captions_that_are_cut_are_counted_as_the_encoder_reads_them():
    encoder = ByteWords(ByteWordsConfig(max_words=4, word_bytes=3, dim=8, heads=1, depth=0))
    captions = ["a b c d", "a b c d e", "abcdefg hij k", "", "one two six"]
    for text in captions:
        pieces = [word[i : i + 3] for word in text.split() for i in range(0, len(word), 3)]
        assert encoder.length(text) == len(pieces)
    (line,) = cut_captions(encoder, captions, "text_encoders.bytes")
    assert line.startswith(
        "2 captions are cut (of 5): text_encoders.bytes.max_words is 4, and the longest has 5 words; set it to 5"
    )
    assert not list(cut_captions(encoder, captions[:1], "text_encoders.bytes"))


def test_samples_have_a_shape_that_is_trained():
    tall, wide, clip = Bucket(1, 44, 24, 10), Bucket(1, 28, 36, 30), Bucket(8, 32, 32, 90)
    assert trained_shape(Bucket(1, 32, 32), [tall, wide, clip]) == wide
    assert trained_shape(Bucket(1, 44, 24), [tall, wide, clip]) == Bucket(1, 44, 24)
    assert trained_shape(Bucket(4, 32, 32), [tall, wide, clip]) == Bucket(4, 32, 32)


def test_loader_processes_are_bounded():
    with pytest.raises(UserError, match="100000 loader processes are more than"):
        Data([Bucket(1, 8, 8, 10)], 2, 3, workers=100_000).check()


@pytest.mark.parametrize("best", [2, 4])
def test_the_last_line_offers_the_best_checkpoint_if_the_loss_has_risen_since(best, tmp_path, monkeypatch, capsys):
    def losses(self, trainer, module, prefix):
        return {f"{prefix}loss": 1.0 + abs(trainer.global_step - best)}

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Validation, "_losses", losses)
    settings = [*TINY, "trainer.max_steps=4", "logging.validate_every=1", "logging.checkpoint_every=1"]
    assert main(["fit", "quickstart", *settings]) == 0
    out = capsys.readouterr().out
    offered = "the validation loss was lowest at step 2, and has risen since" in out
    assert offered == ("--checkpoint best --num 4" in out) == (best == 2)


@pytest.mark.parametrize(("number", "said"), [(0.3712, "0.371"), (27.57, "27.6"), (99.99, "100"), (28218.7, "28,219")])
def test_epochs_are_rounded(number: float, said: str) -> None:
    assert rounded(number) == said
