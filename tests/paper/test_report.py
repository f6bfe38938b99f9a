"""The report of a sweep: means by hand, the paper's figures beside them, and nothing unsaid."""

import struct
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest
from example_results import fold as fold_result
from example_results import run_result, scores
from transformers import WhisperConfig

from modeling_whisper_ser import WhisperSerConfig
from whisper_ser.data.leakage import AuditResult, Leak
from whisper_ser.evaluation.bootstrap import speaker_intervals
from whisper_ser.evaluation.results import Corpus, Epoch, Model, Protocol, Scores, write_result
from whisper_ser.paper import published as paper
from whisper_ser.paper import report as sweep
from whisper_ser.paper.report import ReportError, write_sweep_report
from whisper_ser.paper.sweep import read_sweep
from whisper_ser.training.results import config_fields

LABELS = ["angry", "sad"]
LEAK = "Leak allowed: speakers (train/test) in 1 of 2 folds, fold A: train and test share speakers x"

# How many of 4 angry and of 1 sad utterance are right. WA is their sum over 5, UA the mean of their shares:
# (4, 1) is WA 100 UA 100, (2, 1) 60 and 75, (4, 0) 80 and 50, (2, 0) 40 and 25, (0, 1) 20 and 50.
Right = tuple[int, int]
TESTED = (1, "A")
TESTS: dict[tuple[int, str], Right] = {
    (1, "A"): (4, 0),
    (1, "B"): (2, 1),
    (2, "A"): (2, 0),
    (2, "B"): (4, 1),
    (3, "A"): (2, 1),
    (3, "B"): (2, 1),
}
VALIDATIONS: dict[tuple[int, str], Right] = {
    (1, "A"): (4, 1),
    (1, "B"): (2, 1),
    (2, "A"): (4, 0),
    (2, "B"): (2, 1),
    (3, "A"): (2, 1),
    (3, "B"): (0, 1),
}


def figures(right: Right) -> Scores:
    return scores([0, 0, 0, 0, 1], [0] * right[0] + [1] * (4 - right[0]) + [right[1]])


def cell(layer: int, fold: str, pooling: str = "mean", name: str = "whisper-base", seed: int = 0) -> dict[str, Any]:
    test = figures(TESTS[layer, fold])
    history = [
        {
            "epoch": epoch,
            "loss": 1 / epoch,
            "test": {metric: share * getattr(test, metric) for metric in ("wa", "ua", "f1")},
        }
        for epoch, share in ((1, 0.5), (2, 1.0))
    ]
    return {
        "setting": (name, layer, pooling),
        "seed": seed,
        "fold": fold,
        "test": test,
        "validation": figures(VALIDATIONS[layer, fold]),
        "history": history,
    }


def results(corpus: str = "own", **changes: Any) -> dict[str, Any]:
    """Returns a sweep of 3 layers, mean pooling, 2 folds, with `changes` of its parts."""
    return {
        "corpus": corpus,
        "selection": "last",
        "audit": AuditResult(["A", "B"], 10),
        "warnings": [],
        "models": {},
        "encoders": {"whisper-base": 3},
        "cells": [cell(layer, fold) for layer, fold in TESTS],
        **changes,
    }


def leaky(**changes: Any) -> dict[str, Any]:
    audit = AuditResult(["A", "B"], 10, [Leak("speakers", "A", "train/test", ["x"])])
    return results(audit=audit, warnings=[LEAK], **changes)


def predictions_of(one: dict[str, Any]) -> pandas.DataFrame:
    """Returns predictions, each of a speaker of its own, and of a validation part that must not count."""
    matrix = np.array(one["test"].confusion_matrix)
    pairs = [(LABELS[i], LABELS[j]) for i, j in np.ndindex(matrix.shape) for _ in range(matrix[i, j])]
    rows = [{"part": "test", "emotion": true, "predicted": said} for true, said in pairs]
    rows += [{"part": "validation", "emotion": "angry", "predicted": "sad"}] * 9
    table = pandas.DataFrame(rows).assign(path="x.wav", gender="", fold=one["fold"], seed=one["seed"])
    speakers = [f"{one['fold']}{number}" for number in range(len(rows))]
    return table.assign(speaker=speakers, probability_angry=0.5, probability_sad=0.5)


def write_folders(folder: Path, content: dict[str, Any]) -> list[Path]:
    """Writes the cross-validation of each setting, and returns their folders."""
    folders = []
    for name, layer, pooling in dict.fromkeys(one["setting"] for one in content["cells"]):
        cells = [one for one in content["cells"] if one["setting"] == (name, layer, pooling)]
        folds = [
            fold_result(
                one["test"],
                one["fold"],
                one["seed"],
                validation=one["validation"],
                history=[Epoch(**epoch) for epoch in one["history"]],
            )
            for one in cells
        ]
        layers = content["encoders"][name]
        whisper = WhisperConfig(d_model=32, encoder_layers=layers, encoder_attention_heads=4, encoder_ffn_dim=64)
        config = WhisperSerConfig(
            encoder_config=whisper,
            layer_index=layer,
            pooling_type=pooling,
            id2label=dict(enumerate(LABELS)),
            **{"num_pooling_heads": 6, **content["models"].get(pooling, {})},
        )
        table = pandas.concat([predictions_of(one) for one in cells])
        result = run_result(
            folds,
            table[table["part"] == "test"],
            corpus=Corpus(content["corpus"], "", [], "", "", "", utterances=10, speakers=2, hours=0.01),
            protocol=Protocol(
                name="loso",
                selection=content["selection"],
                seeds=list(dict.fromkeys(one.seed for one in folds)),
                folds=list(dict.fromkeys(one.name for one in folds)),
            ),
            model=Model(f"openai/{name}", True, None, config_fields(config)),
            audit=content["audit"],
            warnings=content["warnings"],
        )
        folders.append(folder / "variants" / f"{name}-{layer}-{pooling}")
        write_result(folders[-1], result, table)
    return folders


@pytest.fixture
def quick(monkeypatch):
    """Leaves the drawings out: the tables and the page say what is tested."""
    monkeypatch.setattr(sweep, "FIGURES", ())


def report(folder: Path, content: dict[str, Any]) -> str:
    return write_sweep_report(folder, write_folders(folder, content)).read_text()


def table(page: str, title: str) -> list[dict[str, str]]:
    """Returns the rows of the table below the heading that holds `title`."""
    section = next(part for part in page.split("\n### ")[1:] if title in part.splitlines()[0])
    lines = [line for line in section.splitlines() if line.startswith("|")]
    rows = [[text.strip() for text in line.strip("|").split("|")] for line in lines]
    return [dict(zip(rows[0], row, strict=True)) for row in rows[2:]]


def headings(page: str) -> list[str]:
    """Returns every section that holds a table of figures."""
    return [part for part in page.split("\n### ")[1:] if "| WA |" in part]


@pytest.mark.usefixtures("quick")
class TestTables:
    def test_every_layer_has_the_mean_and_the_population_deviation_over_folds(self, tmp_path):
        rows = table(report(tmp_path, results()), "whisper-base, 3 layers")
        assert [(row["layer"], row["WA"], row["UA"]) for row in rows] == [
            ("1", "70.00 ± 10.00", "62.50 ± 12.50"),
            ("2", "70.00 ± 30.00", "62.50 ± 37.50"),
            ("3", "60.00 ± 0.00", "75.00 ± 0.00"),
        ]
        csv = pandas.read_csv(tmp_path / "report" / "table3-4_whisper-base.csv")
        assert csv["ua_std"].tolist() == [12.5, 37.5, 0]

    def test_nested_takes_in_each_fold_the_layer_that_validates_best(self, tmp_path):
        # A: layer 1 (validation UA 100), tested at WA 80 UA 50. B: layers 1 and 2 tie at 75, the lower one is taken
        # and tested at WA 60 UA 75.
        (row,) = table(report(tmp_path, results()), "Table 1a")
        assert (row["layer (runs)"], row["WA"], row["UA"]) == ("1", "70.00 ± 10.00", "62.50 ± 12.50")
        content = results()
        content["cells"][3]["validation"] = figures((4, 1))
        (row,) = table(report(tmp_path, content), "Table 1a")
        assert (row["layer (runs)"], row["WA"], row["UA"]) == ("1 (1), 2 (1)", "90.00 ± 10.00", "75.00 ± 25.00")

    def test_best_on_test_takes_the_layer_with_the_highest_test_ua_and_says_that_it_flatters(self, tmp_path):
        page = report(tmp_path, results())
        (row,) = table(page, "Table 1b")
        assert (row["layer"], row["UA"]) == ("3", "75.00 ± 0.00")
        assert "### Table 1b. Best layer, chosen on the test folds: flattering" in page

    def test_without_validation_figures_only_the_flattering_rule_is_left_and_the_page_says_so(self, tmp_path):
        cells = [{**one, "validation": None} for one in results()["cells"]]
        page = report(tmp_path, results(cells=cells))
        assert "Table 1a" not in page and "no validation speakers" in page and '"best" here\nflatters' in page
        assert not (tmp_path / "report" / "table1_nested.csv").exists()

    def test_seeds_are_averaged_and_their_deviation_is_apart(self, tmp_path):
        second = [{**cell(layer, fold, seed=1), "test": figures((4, 1))} for layer, fold in TESTS]
        rows = table(report(tmp_path, results(cells=results()["cells"] + second)), "3 layers")
        # Layer 1: seed 0 has UA 62.5 ± 12.5 over folds, seed 1 has 100 ± 0.
        assert (rows[0]["UA"], rows[0]["UA, seeds ±"]) == ("81.25 ± 6.25", "18.75")

    def test_the_interval_is_that_of_the_chosen_predictions_of_all_folds(self, tmp_path):
        (row,) = table(report(tmp_path, results()), "Table 1a")
        said = ["angry"] * 4 + ["angry"] + ["angry"] * 2 + ["sad"] * 2 + ["sad"]
        names = [f"{fold}{number}" for fold in "AB" for number in range(5)]
        expected = speaker_intervals((["angry"] * 4 + ["sad"]) * 2, said, names, LABELS).ua
        value, low, high = (f"{100 * bound:.2f}" for bound in (expected.value, expected.low, expected.high))
        # 6 of 8 angry and 1 of 2 sad utterances are right.
        assert value == "62.50" and row["UA, all utterances [95%]"] == f"{value} [{low}, {high}]"

    @pytest.mark.parametrize("speaker", ["", "s"])
    def test_without_known_speakers_or_with_too_few_there_is_no_interval(self, tmp_path, speaker, monkeypatch):
        told = predictions_of
        monkeypatch.setitem(globals(), "predictions_of", lambda one: told(one).assign(speaker=speaker))
        assert table(report(tmp_path, results()), "Table 1a")[0]["UA, all utterances [95%]"] == "-"

    def test_table_2_has_our_rows_with_cost_at_the_deepest_layer_read(self, tmp_path):
        content = results()
        content["cells"][3]["validation"] = figures((4, 1))
        rows = table(report(tmp_path, content), "Table 2")
        assert [(row["source"], row["layer (runs)"]) for row in rows] == [
            ("this sweep, nested", "1 (1), 2 (1)"),
            ("this sweep, best on test", "3"),
        ]
        csv = pandas.read_csv(tmp_path / "report" / "table2.csv")
        # Width 32, inner 64, 80 mels, 1500 positions: 7,712 + 3,104 + 48,000, 8,512 a layer, 64 of the last norm.
        assert csv["encoder_parameters"].tolist() == [58816 + 2 * 8512, 58816 + 3 * 8512 + 64]


@pytest.mark.usefixtures("quick")
class TestBesideThePaper:
    @pytest.fixture
    def page(self, tmp_path) -> str:
        cells = [cell(layer, fold, "qkv", "whisper-tiny") for layer, fold in TESTS]
        other = [cell(layer, fold, "qkv", "whisper-base") for layer, fold in TESTS]
        encoders = {"whisper-tiny": 4, "whisper-base": 3}
        return report(tmp_path, results("shemo", encoders=encoders, cells=cells + other))

    def test_every_layer_stands_beside_the_papers(self, page):
        row = table(page, "whisper-tiny")[2]
        # Table 3, Whisper Tiny + QKV on ShEMO, layer 3; ours is WA 60 UA 75.
        assert (row["paper WA"], row["difference WA"]) == ("84.81 ± 3.64", "-24.81")
        assert (row["paper UA"], row["difference UA"]) == ("74.90 ± 4.48", "+0.10")
        assert row["paper F1"] == "84.26 ± 4.06"

    def test_the_best_layer_stands_beside_table_1(self, page):
        tiny, base = table(page, "Table 1b")
        assert (tiny["paper WA"], tiny["paper UA"]) == ("84.81 ± 3.64", "75.14 ± 4.24")
        assert (tiny["difference UA"], base["paper UA"], base["difference UA"]) == ("-0.14", "-", "-")
        assert "paper F1" not in tiny, "Table 1 has no F1"

    def test_an_encoder_that_the_paper_lacks_has_no_column_of_it(self, page):
        assert not any("paper" in column for column in table(page, "whisper-base, 3 layers")[0])

    def test_prior_work_keeps_its_own_figures_and_never_gets_our_protocol(self, page, tmp_path):
        rows = {row["model"]: row for row in table(page, "Table 2")[:6]}
        assert (rows["HuBERT Large"]["WA"], rows["HuBERT Large"]["UA"]) == ("83.35", "64.29")
        assert rows["WavLM Large"]["source"] == "Ma et al. (2024)"
        # Whisper small up to layer 8, whole: FACTS of the architecture, 88.2 M less four layers of 7.1 M.
        assert (rows["Whisper Small"]["layer (runs)"], rows["Whisper Small"]["encoder parameters"]) == ("8", "59.8 M")
        csv = pandas.read_csv(tmp_path / "report" / "table2.csv", dtype=str)
        published = csv["rule"] == "published"
        assert published.sum() == 6 and csv.loc[published, ["protocol", "selection", "folds"]].isna().all(axis=None)
        assert (csv.loc[~published, "folds"] == "2").all()

    def test_the_page_says_where_the_sweep_is_not_the_papers_experiment(self, page):
        assert "| classes | 5 | 2 |" in page and "| pad_to_seconds | 30 | none |" in page
        assert "| selection | test_best | last |" in page and "| batch_size |" not in page

    def test_so_it_does_of_each_poolings_head(self, tmp_path):
        models = {
            "mean": {"channel_standardisation": False, "chunk_seconds": 30.0},
            "qkv": {"chunk_seconds": 30.0, "score_activation": "tanh"},
        }
        content = results("shemo", models=models, cells=[cell(*TESTED), cell(*TESTED, "qkv")])
        rows = paper.departures(read_sweep(write_folders(tmp_path, content)))
        assert ("channel_standardisation", "off", "on") in rows and ("score_activation (qkv)", "none", "tanh") in rows
        named = " ".join(name for name, *_ in rows)
        assert "chunk_seconds" not in named and "num_pooling_heads" not in named and "(mean)" not in named
        page = report(tmp_path, content)
        assert "| heads | mean, dropout 0 / 0.1 / 0; qkv 6 x 4, dropout 0 / 0.1 / 0 (input, pooling" in page

    def test_the_page_says_where_table_1_is_not_the_best_layer_of_table_3(self, page):
        assert "tiny qkv: no single layer has both" in page

    @pytest.mark.parametrize("corpus", paper.CLASSES)
    def test_the_oddities_of_table_1_are_those_of_its_figures(self, corpus):
        found = []
        for size, layers in (("tiny", 4), ("small", 12)):
            for pooling in ("mean", "attentive", "qkv"):
                asked = (corpus, f"whisper-{size}", pooling)
                best = paper.best_layer(*asked)
                every = {layer: paper.one_layer(*asked, layer) for layer in range(1, layers + 1)}
                shown = [layer for layer, of in every.items() if best.items() <= of.items()]
                highest = max(every, key=lambda layer, every=every: every[layer]["ua"].mean)
                if not shown:
                    found.append(f"{size} {pooling}: no single layer has both its WA and its UA")
                elif highest not in shown:
                    found.append(f"{size} {pooling}: layer {shown[0]}, though layer {highest} has a higher UA")
        assert sorted(found) == sorted(paper.ODDITIES[corpus])

    def test_english_only_encoders_and_hub_names_are_the_papers_sizes_too(self):
        names = ("openai/whisper-tiny.en", "whisper-small", "whisper-base", "my-whisper-tiny", "whisper-small-tuned")
        assert [paper.whisper_size(name) for name in names] == ["tiny", "small", None, None, None]
        # Table 4, Whisper Small + Mean on IEMOCAP, layer 10.
        assert paper.one_layer("iemocap", "whisper-small.en", "mean", 10)["wa"][:2] == (70.52, 1.73)

    def test_other_corpora_have_no_figures_in_the_paper_and_the_page_says_so(self, tmp_path):
        page = report(tmp_path / "own", results())
        assert "The paper has no figures on this corpus" in page and "lists no prior work" in page
        assert "paper WA" not in page and "difference" not in page


@pytest.mark.usefixtures("quick")
def test_layers_that_were_not_swept_are_named(tmp_path):
    page = report(tmp_path, results(cells=[one for one in results()["cells"] if one["setting"][1] == 2]))
    assert "- whisper-base: layer 1, 3" in page
    assert "not swept" not in report(tmp_path / "whole", results())


@pytest.mark.usefixtures("quick")
class TestWhatEveryTableSays:
    def test_the_protocol(self, tmp_path):
        sections = headings(report(tmp_path, results()))
        assert len(sections) == 4
        for section in sections:
            assert "own: 10 utterances of 2 speakers, 2 classes; loso, 2 folds" in section
            assert "no speaker in two parts of a fold; last epoch kept; 1 seed" in section

    def test_selection_on_the_test_fold(self, tmp_path):
        page = report(tmp_path, results(selection="test_best"))
        assert len(headings(page)) == 4
        for section in headings(page):
            assert "(selection=test_best)" in section.splitlines()[0] and "All figures flatter" in section
        assert "test_best" not in report(tmp_path / "other", results())

    def test_a_leak_that_was_allowed(self, tmp_path):
        page = report(tmp_path, leaky())
        assert page.index(LEAK) < page.index("| corpus |")
        assert len(headings(page)) == 4 and all(f"**{LEAK}**" in section for section in headings(page))
        assert "speakers shared (train/test) in 1 of 2 folds" in page
        for path in (tmp_path / "report").glob("*.csv"):
            assert (pandas.read_csv(path)["warnings"] == LEAK).all()

    def test_speakers_that_nobody_knows(self, tmp_path):
        notes = ["10 of 10 utterances have no speaker: parts may share speakers unseen."]
        page = report(tmp_path, results(audit=AuditResult(["A", "B"], 10, [], notes, without_speaker=10)))
        assert all("speakers not known" in section for section in headings(page)) and f"- {notes[0]}" in page


class TestFolder:
    def test_figures_are_written_as_png_and_csv_and_shown_on_the_page(self, tmp_path):
        page = report(tmp_path, leaky())
        for figure in ("fig2_recall", "fig3_confusion", "fig4_learning_curves", "fig5_layers"):
            head = (tmp_path / "report" / f"{figure}.png").read_bytes()[:24]
            width, height = struct.unpack(">II", head[16:])
            assert head[1:4] == b"PNG" and min(width, height) > 300
            assert f"]({figure}.png)" in page and f"[{figure}.csv]({figure}.csv)" in page
            assert (pandas.read_csv(tmp_path / "report" / f"{figure}.csv")["warnings"] == LEAK).all()
        linked = {part.split("]")[0] for part in page.split("\n- [")[1:]}
        assert {path.name for path in (tmp_path / "report").iterdir()} == linked | {"README.md"}
        # Nested takes layer 1: 6 of 8 angry and 1 of 2 sad utterances are right.
        recall = pandas.read_csv(tmp_path / "report" / "fig2_recall.csv")
        assert recall[["emotion", "recall"]].to_numpy().tolist() == [["angry", 75], ["sad", 50]]
        counts = pandas.read_csv(tmp_path / "report" / "fig3_confusion.csv")["utterances"]
        assert counts.tolist() == [6, 2, 1, 1]
        curves = pandas.read_csv(tmp_path / "report" / "fig4_learning_curves.csv")
        assert curves["ua"].tolist() == [31.25, 62.5, 31.25, 62.5, 37.5, 75]
        assert curves["loss"].tolist() == [1, 0.5] * 3
        layers = pandas.read_csv(tmp_path / "report" / "fig5_layers.csv")
        assert layers["wa"].tolist() == [70, 70, 60] and layers["wa_std"].tolist() == [10, 30, 0]
        assert "It was watched and chose nothing" in page

    def test_equal_inputs_give_equal_files(self, tmp_path):
        for name in ("one", "two"):
            report(tmp_path / name, results())
        one, two = (sorted((tmp_path / name / "report").iterdir()) for name in ("one", "two"))
        assert [path.read_bytes() for path in one] == [path.read_bytes() for path in two]

    def test_learning_curves_that_chose_the_epoch_say_so(self, tmp_path):
        assert "these curves chose" in report(tmp_path, results(selection="test_best"))

    def test_learning_curves_are_of_the_part_that_all_runs_followed(self, tmp_path):
        content = results()
        for number, one in enumerate(content["cells"]):
            for entry in one["history"]:
                entry["validation"] = {name: value / 2 for name, value in entry["test"].items()}
                if number == 0:
                    del entry["test"]
        assert "UA of the validation part after each epoch" in report(tmp_path, content)
        curves = pandas.read_csv(tmp_path / "report" / "fig4_learning_curves.csv")
        assert set(curves["part"]) == {"validation"}
        # Layer 3 ends with UA 75 on both test parts; half of that was noted of the validation parts.
        assert curves["ua"].iloc[-1] == 37.5

    def test_without_test_figures_by_epoch_there_are_no_learning_curves(self, tmp_path):
        content = results()
        for one in content["cells"]:
            one["history"] = [{"epoch": 1, "loss": 1.0}]
        assert "No part was evaluated after every epoch of all runs" in report(tmp_path, content)
        assert not (tmp_path / "report" / "fig4_learning_curves.png").exists()

    def test_a_report_is_replaced_whole(self, tmp_path, quick):
        report(tmp_path, results())
        stale = tmp_path / "report" / "table3-4_whisper-old.csv"
        stale.write_text("")
        report(tmp_path, results())
        assert not stale.exists() and {path.name for path in tmp_path.iterdir()} == {"report", "variants"}

    def test_a_report_that_fails_leaves_the_old_one(self, tmp_path, quick, monkeypatch):
        before = report(tmp_path, results())
        monkeypatch.setattr(sweep, "_page", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            report(tmp_path, leaky())
        assert (tmp_path / "report" / "README.md").read_text() == before
        assert {path.name for path in tmp_path.iterdir()} == {"report", "variants"}

    def test_a_folder_of_somebody_else_is_kept(self, tmp_path):
        (tmp_path / "report").mkdir()
        (tmp_path / "report" / "README.md").write_text("# My thesis")
        with pytest.raises(ReportError, match="move it away"):
            report(tmp_path, results())
        assert (tmp_path / "report" / "README.md").read_text() == "# My thesis"

    def test_bars_in_names_do_not_end_a_cell(self, tmp_path, quick):
        page = report(tmp_path, results(cells=[{**cell(1, "A"), "fold": "A|x"}, cell(1, "B")]))
        assert "2 folds: A\\|x, B |" in page
