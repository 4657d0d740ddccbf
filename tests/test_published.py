"""The paper's numbers, and ours beside them."""
import dataclasses
import json

import numpy as np
import pandas as pd
import pytest

from starlight_nb.runtime.settings import experiments_folder
from starlight_nb.paper.published import (
    IDENTITY, compare, compare_ratios, comparison_table, paper_ratios, paper_settings, published,
    same_settings, save_comparison)
from starlight_nb.paper.experiment import Experiment
from starlight_nb.paper.profiles import load_profile
from starlight_nb.statistics import summarise

BARRIERS = dict(metric="loss_barrier", split="train")
MLP = {"MLP": {"dataset": "MNIST", "architecture": "MLP-1x64", "optimizer": ""}}


def test_the_table_is_small_and_every_number_has_a_source():
    path = experiments_folder() / "published.csv"
    frame = pd.read_csv(path)
    assert path.stat().st_size < 150_000
    assert frame.source.notna().all()
    assert np.isfinite(frame["mean"]).all()
    assert not frame.duplicated(
        [c for c in frame if c not in ("n", "mean", "std", "min", "max", "source")]
    ).any()
    shares = frame[frame.metric.isin(["accuracy", "accuracy_barrier"])]
    assert shares["mean"].between(0, 1).all()
    assert (frame["std"].dropna() >= 0).all()
    assert (frame.n.dropna() >= 1).all()
    assert frame[frame["pair"].isin(["regular-regular", "single regular"])].n_source.isna().all()


def test_the_barriers_of_table_1_are_whole():
    table = published("table1_barriers", **BARRIERS)
    assert len(table) == 16 * 3
    assert table["mean"].between(0, 7).all()
    assert table.source.str.startswith("aktsonthalia/starlight@964a6f8:results/out/").all()
    assert (
        len(published("fig3_paths", dataset="CIFAR-10", pair="star-heldout", metric="loss")) == 11
    )
    json.dumps(table.to_dict("records"))


@pytest.mark.parametrize(
    "table, where, expected",
    [  # as printed in the paper, or in its summaries
        (
            "table1_barriers",
            dict(dataset="CIFAR-10", architecture="VGG19", pair="star-heldout", **BARRIERS),
            0.336,
        ),
        ("table1_barriers", dict(dataset="AG News", pair="regular-regular", **BARRIERS), 0.155),
        (
            "appendix_test_metrics",
            dict(architecture="VGG11", pair="regular-regular", metric="loss_barrier"),
            0.242,
        ),
        ("appendix_t_sampling", dict(variant="Beta(2,2)", pair="star-heldout", **BARRIERS), 0.069),
        (
            "appendix_t_sampling",
            dict(variant="constant 0.5", pair="single star", metric="loss", split="train"),
            0.082,
        ),
        ("appendix_heldouts", dict(variant="15 held-outs", pair="star-heldout", **BARRIERS), 0.093),
        ("appendix_warmup", dict(pair="star-heldout", **BARRIERS), 0.189),
        ("fig2_width_depth", dict(architecture="WRN-22-8", pair="star-heldout", **BARRIERS), 0.004),
        (
            "fig2_width_depth",
            dict(metric="slope", variant="as printed", architecture="WRN-22-1 to WRN-22-8"),
            0.31,
        ),
        ("appendix_relationship", dict(metric="slope"), 0.302),
        ("table2_fusion", dict(dataset="CIFAR-100", pair="ensemble"), 0.813),
        ("fig1_source_count", dict(dataset="CIFAR-100", n_source=25, **BARRIERS), 0.892),
    ],
)
def test_a_number_is_found_under_its_experiment(table, where, expected):
    assert published(table, **where)["mean"].item() == pytest.approx(expected, abs=6e-4)


def test_the_paper_s_argument_about_heldouts_is_there():
    row = published("appendix_heldouts", variant="15 held-outs", **BARRIERS).set_index("pair")
    assert row["min"]["regular-regular"] == pytest.approx(0.255, abs=1e-3)
    assert row["max"]["star-heldout"] == pytest.approx(0.117, abs=1e-3)


@pytest.mark.parametrize(
    "series, members, slope, intercept",
    [
        ("WRN-22-1 to WRN-22-8", r"^WRN-22-\d$", 0.31, 0.01),
        ("WRN-22-1 to WRN-40-1", r"^WRN-\d+-1$", 0.05, 0.30),
    ],
)
def test_the_fits_are_those_of_the_means(series, members, slope, intercept):
    fit = published(
        "fig2_width_depth", architecture=series, variant="fitted to the means"
    ).set_index("metric")["mean"]
    means = published("fig2_width_depth", **BARRIERS).pivot_table(
        index="architecture", columns="pair", values="mean"
    )
    means = means[means.index.str.contains(members)]
    assert len(means) == 4
    assert fit[["slope", "intercept"]].tolist() == pytest.approx(
        np.polyfit(means["regular-regular"], means["star-heldout"], 1), abs=1e-4
    )
    assert fit["slope"] == pytest.approx(slope, abs=5e-3)
    assert fit["intercept"] == pytest.approx(intercept, abs=5e-3)


def rows(values, setting="MLP", **about):
    "Barriers of one star to held-out solutions."
    about = dict(split="train", metric="loss_barrier", pair="star-heldout", n_source=17) | about
    return pd.DataFrame(
        [
            dict(
                setting=setting, model_a="star-n17-s0", model_b=f"heldout-{n}", value=value, **about
            )
            for n, value in enumerate(values)
        ]
    )


def test_ours_stands_beside_the_same_number_of_theirs():
    ours, paper = rows([0.01, 0.02, 0.03, 0.04]), published("table1_barriers")
    found = compare(ours, paper, MLP).iloc[0]
    own = summarise(ours, ["setting"]).iloc[0]
    theirs = published(
        "table1_barriers", dataset="MNIST", architecture="MLP-1x64", pair="star-heldout", **BARRIERS
    ).iloc[0]
    assert (found.ours, found.sd, found.low, found.high, found.n) == (
        own["mean"],
        own.sd,
        own.low,
        own.high,
        4,
    )
    assert (found.published, found["std"], found.published_n) == (
        theirs["mean"],
        theirs["std"],
        theirs.n,
    )
    assert (found.ratio, found.ratio_low, found.ratio_high) == (
        own["mean"] / theirs["mean"],
        own.low / theirs["mean"],
        own.high / theirs["mean"],
    )


@pytest.mark.parametrize(
    "shift, within, overlap, verdict",
    [
        (0, True, True, "within our interval"),
        (0.002, False, True, "intervals overlap"),
        (0.02, False, False, "apart: {:.4g} times the paper's"),
        (-0.019, False, False, "apart: {:.4g} times the paper's"),
    ],
)
def test_whether_they_agree(shift, within, overlap, verdict):
    mean = published(
        "table1_barriers", dataset="MNIST", architecture="MLP-1x64", pair="star-heldout", **BARRIERS
    )["mean"].item()
    compared = compare(
        rows(mean + shift + np.array([-1e-3, 0, 1e-3])), published("table1_barriers"), MLP
    )
    assert (compared.within.item(), compared.overlap.item()) == (within, overlap)
    assert comparison_table(compared).verdict.item() == verdict.format((mean + shift) / mean)


def test_one_value_has_no_interval():
    compared = compare(rows([0.02]), published("table1_barriers"), MLP)
    assert compared[["low", "high", "within", "overlap", "ratio_low"]].isna().all(axis=None)
    assert compared.ours.item() == 0.02
    assert comparison_table(compared).verdict.item() == "one value, no interval"


def test_regular_pairs_and_single_models_find_theirs():
    regular = rows([0.04, 0.05], pair="regular-regular", n_source=None).assign(model_a="heldout-7")
    single = (
        rows([0.1], pair="single", metric="loss"),
        rows([0.2], pair="single", metric="loss", n_source=None).assign(model_a="heldout-1"),
    )
    compared = compare(
        pd.concat([regular, *single]).assign(n_source=lambda f: f.n_source.astype(float)),
        published("table1_barriers"),
        MLP,
    ).set_index("pair")
    assert set(compared.index) == {"regular-regular", "single star", "single regular"}
    assert compared.published["single star"] == pytest.approx(0.008, abs=5e-4)
    assert compared.published["regular-regular"] == pytest.approx(0.049, abs=5e-4)


def test_what_the_paper_has_not_is_not_compared():
    paper = published("table1_barriers")
    for ours in (rows([0.1, 0.2], n_source=16), rows([0.1, 0.2], split="validation")):
        assert not len(compare(ours, paper, MLP))
    assert not len(compare(rows([0.1]), paper, {}))
    assert not len(comparison_table(compare(rows([0.1]), paper, {})))


@pytest.mark.parametrize(
    "make, message",
    [
        (
            lambda: compare(rows([1.0]).drop(columns="model_b"), published("table1_barriers"), MLP),
            "ours: the columns model_b are missing",
        ),
        (
            lambda: compare(rows([1.0]), published("table1_barriers").drop(columns="std"), MLP),
            "paper: the columns std are missing",
        ),
        (
            lambda: compare(rows([1.0]), published("table1_barriers"), {"MPL": MLP["MLP"]}),
            "same: 'MPL' is not known; did you mean 'MLP'",
        ),
        (
            lambda: compare(
                rows([1.0, 2.0]).assign(matching=["forward", "none"]),
                published("table1_barriers"),
                MLP,
            ),
            r"ours: pairs matched in several ways \(forward, none\); choose one",
        ),
        (
            lambda: compare(
                rows([1.0]),
                published("appendix_heldouts"),
                {"MLP": dict(zip(IDENTITY, ("CIFAR-10", "ResNet-18", "SGD")))},
            ),
            "paper: several rows have the same pair, split, metric, n_source; "
            "choose among them, by `variant`",
        ),
        (
            lambda: compare_ratios(pd.DataFrame({"ratio": [1.0]}), pd.DataFrame()),
            "ours: the columns setting, n_source, low, high are missing",
        ),
        (
            lambda: published("table1_barriers", pairs="single"),
            "column: 'pairs' is not known; did you mean 'pair'",
        ),
        (lambda: published("fig4_bma"), "table: 'fig4_bma' is not known"),
    ],
)
def test_bad_input_is_told(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_ratios_stand_beside_those_of_other_settings():
    barriers = published("table1_barriers", **BARRIERS)
    paper = paper_ratios(
        barriers[barriers["pair"] == "star-heldout"],
        barriers[barriers["pair"] == "regular-regular"],
    )
    cifar = paper[paper.dataset == "CIFAR-10"].ratio
    assert cifar.min() == pytest.approx(0.077 / 0.381, abs=2e-3)
    assert cifar.max() == pytest.approx(1.729 / 4.634, abs=2e-3)
    ours = pd.DataFrame(
        [
            dict(setting="A", n_source=50, ratio=0.22, low=0.2, high=0.24),
            dict(setting="A", n_source=7, ratio=0.7, low=0.6, high=0.8),
        ]
    )
    beside = compare_ratios(ours, paper, same_n=True)
    assert list(beside.n_source) == [50] and beside.rows.item() == 4 and beside.overlap.item()
    beside = compare_ratios(ours, paper)
    assert list(beside.rows) == [16, 16] and list(beside.overlap) == [True, False]
    table = comparison_table(ratios={"part": beside})
    assert list(table.quantity) == ["part, N = 50", "part, N = 7"]
    assert list(table.verdict) == ["interval overlaps", "above"]
    assert table.paper[0] == "0.20 to 0.54, in 16 other settings with N = 5 to 50"


def test_a_profile_says_which_settings_are_the_paper_s():
    known = paper_settings()
    assert {
        "MNIST, MLP-1x64", "CIFAR-10, ResNet-18, Adam", "CIFAR-10, WRN-22-4, SGD",
        "ImageNet-1k, torchvision ResNet-18, SGD",
    } <= set(known)
    settings = load_profile("smoke").settings.values()
    assert same_settings(settings) == {}
    with pytest.raises(ValueError, match="settings.mlp.paper: 'CIFAR-10' is not known"):
        same_settings([dataclasses.replace(setting, paper="CIFAR-10") for setting in settings])


def test_a_comparison_is_saved_where_there_is_one(tmp_path, monkeypatch):
    monkeypatch.setenv("STARLIGHT_OUT", str(tmp_path))
    experiment = Experiment(
        "fig3_paths", "smoke", settings=None, sources=None, stars=None, heldouts=None, points=None
    )
    save_comparison(experiment, comparison_table())
    assert "comparison" not in experiment.summary and not list(tmp_path.iterdir())
    save_comparison(
        experiment, comparison_table(compare(rows([0.02, 0.03]), published("table1_barriers"), MLP))
    )
    assert experiment.summary["comparison"] == "tables/fig3_paths_published.md"
    assert experiment.summary["tables"] == []
    assert {p.suffix for p in (tmp_path / "tables").iterdir()} == {".csv", ".md", ".tex"}
