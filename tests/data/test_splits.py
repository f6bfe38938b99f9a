"""Protocols: every utterance tests once, parts share no speaker, and what cannot be cut is named."""

import random
from collections import Counter

import pytest

from whisper_ser.data.corpora.dataset import Utterance, build_dataset
from whisper_ser.data.splits import folds
from whisper_ser.errors import ProtocolError

LABELS = ("angry", "neutral", "sad")


def corpus_of(speakers=8, each=12, seed=0, **fields):
    """Returns a corpus of unequal speakers; `fields` are functions of (speaker, number)."""
    rng = random.Random(seed)
    utterances = [
        Utterance(
            f"{s}_{n}.wav",
            LABELS[n % 3],
            **{"speaker": f"s{s}", **{name: value(s, n) for name, value in fields.items()}},
        )
        for s in range(speakers)
        for n in range(each + rng.randrange(each))
    ]
    rng.shuffle(utterances)
    return build_dataset(utterances, LABELS, "test")


def unknown_speakers(**fields):
    return corpus_of(speaker=lambda s, n: "", **fields)


def utterances_tested(cut):
    return Counter(path for fold in cut for path in fold.split.test["path"])


def names(cut):
    return [fold.name for fold in cut]


def paths(cut):
    return [[part["path"] for part in fold.split] for fold in cut]


PROTOCOLS = {
    "loso": corpus_of(),
    "group": corpus_of(group=lambda s, n: f"Session{s // 2}"),
    "speaker_groups": corpus_of(),
    "fold": corpus_of(fold=lambda s, n: str(s % 4 + 1)),
    "stratified": unknown_speakers(),
}


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("validation_fraction", [0.0, 0.2])
def test_every_utterance_tests_once_and_the_parts_make_up_the_corpus(protocol, validation_fraction):
    corpus = PROTOCOLS[protocol]
    for seed in range(4):
        cut = folds(corpus, protocol, seed=seed, validation_fraction=validation_fraction)
        assert utterances_tested(cut) == Counter(corpus["path"])
        for fold in cut:
            assert sorted(path for part in fold.split for path in part["path"]) == sorted(corpus["path"])
            assert bool(len(fold.split.validation)) == bool(validation_fraction)
            assert len(set(fold.split.train["emotion"])) == len(LABELS)
            if protocol != "stratified":
                train, validation, test = (set(part["speaker"]) for part in fold.split)
                assert not (train & validation or train & test or validation & test)
        again = folds(corpus, protocol, seed=seed, validation_fraction=validation_fraction)
        assert paths(again) == paths(cut)


@pytest.mark.parametrize("protocol", ["speaker_groups", "stratified", "loso"])
def test_another_seed_draws_otherwise(protocol):
    draws = {str(paths(folds(PROTOCOLS[protocol], protocol, seed=s, validation_fraction=0.2))) for s in range(5)}
    assert len(draws) > 1


def test_loso_leaves_each_speaker_out():
    for fold in folds(PROTOCOLS["loso"], "loso"):
        assert set(fold.split.test["speaker"]) == {fold.name}


def test_folds_are_sorted_by_number():
    corpus = corpus_of(speakers=11, speaker=lambda s, n: str(s + 1))
    assert names(folds(corpus, "loso")) == [str(n) for n in range(1, 12)]


def test_groups_and_published_folds_are_named_by_their_column():
    assert names(folds(PROTOCOLS["group"], "group")) == [f"Session{n}" for n in range(4)]
    for fold in folds(PROTOCOLS["fold"], "fold"):
        assert set(fold.split.test["fold"]) == {fold.name}


@pytest.mark.parametrize("num_groups", [2, 3, 5, 8])
def test_speaker_groups_are_balanced_in_utterances(num_groups):
    for seed in range(20):
        corpus = corpus_of(seed=seed)
        cut = folds(corpus, "speaker_groups", num_groups=num_groups, seed=seed)
        sizes = [len(fold.split.test) for fold in cut]
        assert len(sizes) == num_groups
        # The last speaker to join a group joined the smallest: no group leads by more than one speaker.
        assert max(sizes) - min(sizes) <= max(Counter(corpus["speaker"]).values())


def test_equal_speakers_make_equal_groups_that_differ_by_seed():
    corpus = build_dataset(
        [Utterance(f"{s}_{n}", LABELS[n % 3], f"s{s}") for s in range(20) for n in range(6)], LABELS, "t"
    )
    draws = set()
    for seed in range(10):
        cut = folds(corpus, "speaker_groups", seed=seed)
        assert [len(set(fold.split.test["speaker"])) for fold in cut] == [4] * 5
        draws.add(tuple(sorted(set(cut[0].split.test["speaker"]))))
    assert len(draws) > 5


@pytest.mark.parametrize("num_groups", [2, 3, 5])
def test_stratified_parts_have_their_share_of_each_label(num_groups, caplog):
    corpus = PROTOCOLS["stratified"]
    total = Counter(corpus["emotion"])
    cut = folds(corpus, "stratified", num_groups=num_groups, validation_fraction=0.25)
    assert "not by speaker" in caplog.text
    for fold in cut:
        for label, count in total.items():
            assert abs(Counter(fold.split.test["emotion"])[label] - count / num_groups) < 1
            left = count - Counter(fold.split.test["emotion"])[label]
            assert abs(Counter(fold.split.validation["emotion"])[label] - left / 4) <= 1
        assert len(fold.split.validation) == round((len(corpus) - len(fold.split.test)) / 4)


def test_validation_holds_out_the_share_of_speakers():
    for fraction, expected in ((0.01, 1), (0.2, 1), (0.3, 2), (0.5, 4)):
        for fold in folds(PROTOCOLS["loso"], "loso", validation_fraction=fraction):
            assert len(set(fold.split.validation["speaker"])) == expected


def test_validation_speakers_do_not_test_where_others_are_left():
    # Published folds that share speakers: s0 to s3 are in both folds, s4 to s7 in one each.
    corpus = corpus_of(fold=lambda s, n: str(1 + (n % 2 if s < 4 else s % 2)))
    for seed in range(20):
        for fold in folds(corpus, "fold", seed=seed, validation_fraction=0.3):
            train, validation, test = (set(part["speaker"]) for part in fold.split)
            assert len(validation) == 2
            assert not validation & test and not validation & train


def test_nobody_is_held_out_for_validation_who_alone_has_a_label():
    utterances = [Utterance(f"{s}_{n}", LABELS[n % 2], f"s{s}") for s in range(6) for n in range(4)]
    utterances += [Utterance(f"{s}_sad", "sad", f"s{s}") for s in (1, 2)]
    corpus = build_dataset(utterances, LABELS, "t")
    for seed in range(20):
        for fold in folds(corpus, "loso", seed=seed, validation_fraction=0.4):
            assert len(set(fold.split.validation["speaker"])) == 2
            assert 2 in fold.split.train["emotion"]


@pytest.mark.parametrize("column", ["group", "fold"])
@pytest.mark.parametrize("validation", ["validation", "dev", "valid", "val", "Dev"])
def test_fixed_parts_are_kept_whatever_validation_is_called(column, validation):
    corpus = corpus_of(**{column: lambda s, n: "train" if s < 5 else validation if s < 6 else "test"})
    (fold,) = folds(corpus, "fixed", validation_fraction=0.5)
    train, held, test = (set(part["speaker"]) for part in fold.split)
    assert (train, held, test) == ({"s0", "s1", "s2", "s3", "s4"}, {"s5"}, {"s6", "s7"})


def test_fixed_parts_without_validation_hold_training_speakers_out():
    corpus = corpus_of(group=lambda s, n: "train" if s < 5 else "test")
    (fold,) = folds(corpus, "fixed", validation_fraction=0.4)
    train, held, test = (set(part["speaker"]) for part in fold.split)
    assert len(held) == 2 and held | train == {f"s{n}" for n in range(5)} and test == {"s5", "s6", "s7"}


@pytest.mark.parametrize(
    ("corpus", "expected"),
    [
        (corpus_of(group=lambda s, n: "test" if s else "train", fold=lambda s, n: str(s)), ["test"]),
        (corpus_of(fold=lambda s, n: f"f{s % 2}"), ["f0", "f1"]),
        (corpus_of(group=lambda s, n: f"Session{s % 2}"), [f"s{n}" for n in range(8)]),
        (corpus_of(speakers=12), sorted(f"s{n}" for n in range(12))),
        (corpus_of(speakers=13), ["1", "2", "3", "4", "5"]),
        (unknown_speakers(), ["1", "2", "3", "4", "5"]),
    ],
)
def test_auto_takes_what_the_corpus_has(corpus, expected, caplog):
    assert names(folds(corpus)) == expected
    assert ("not by speaker" in caplog.text) == (not any(corpus["speaker"]))


@pytest.mark.parametrize(
    ("corpus", "arguments", "message"),
    [
        (corpus_of(), {"protocol": "lospo"}, "no protocol 'lospo'; expected one of auto, loso"),
        (corpus_of(), {"protocol": "group"}, "group needs the group of every utterance, and .* have none"),
        (corpus_of(), {"protocol": "fold"}, "fold needs the fold of every utterance"),
        (unknown_speakers(), {"protocol": "loso"}, "loso needs the speaker of every utterance.* use stratified"),
        (unknown_speakers(), {"protocol": "speaker_groups"}, "needs the speaker of every utterance"),
        (corpus_of(speakers=1), {"protocol": "loso"}, "at least two speakers, and the corpus has only s0"),
        (corpus_of(fold=lambda s, n: "1"), {"protocol": "fold"}, "at least two folds, and the corpus has only 1"),
        (corpus_of(), {"protocol": "speaker_groups", "num_groups": 9}, "9 groups need as many speakers.* has 8"),
        (corpus_of(), {"protocol": "speaker_groups", "num_groups": 1}, "at least 2"),
        (corpus_of(), {"protocol": "loso", "num_groups": 3}, "num_groups has no meaning for loso"),
        (corpus_of(), {"protocol": "loso", "validation_fraction": 1.0}, "expected a share"),
        (corpus_of(speakers=2), {"protocol": "loso", "validation_fraction": 0.5}, "Fold s0 cannot hold 1 of 1"),
        (corpus_of(), {"protocol": "fixed"}, "train, validation.*group has nothing"),
        (corpus_of(group=lambda s, n: "trian" if s else "test"), {"protocol": "fixed"}, "group has test, trian"),
        (corpus_of(group=lambda s, n: "train"), {"protocol": "fixed"}, "group has train"),
        (corpus_of().select([]), {"protocol": "loso"}, "no utterances"),
        (unknown_speakers().select(range(4)), {"protocol": "stratified"}, "5 groups need as many utterances"),
    ],
)
def test_impossible_folds_are_named(corpus, arguments, message):
    with pytest.raises(ProtocolError, match=message):
        folds(corpus, **arguments)


def test_a_label_that_a_fold_cannot_train_is_left_to_the_audit():
    utterances = [Utterance(f"{s}_{n}", LABELS[n % 2], f"s{s}") for s in range(4) for n in range(4)]
    corpus = build_dataset([*utterances, Utterance("x", "sad", "s2"), Utterance("y", "sad", "s2")], LABELS, "t")
    lacking = [fold.name for fold in folds(corpus, "loso") if LABELS.index("sad") not in fold.split.train["emotion"]]
    assert lacking == ["s2"]
