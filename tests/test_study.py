"""Profiles, members and measured pairs."""
import multiprocessing
import time
import warnings
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from conftest import ROOT, make_study, measured_paths

from starlight_nb.paper.catalogue import profile_names
from starlight_nb.runtime.store import Store
from starlight_nb.paper.experiment import Experiment
from starlight_nb.paper.members import Pair, regular_member, regular_pairs, star_member, star_pairs
from starlight_nb.paper.profiles import load_profile
from starlight_nb.paper.study import COLUMNS, single_models
from starlight_nb.paper.tables import barrier_ratios, barrier_table, order_spread
from starlight_nb.statistics import bootstrap_mean, bootstrap_ratio, summarise

FIG3 = dict(settings=None, sources=None, stars=None, heldouts=None, points=None)


@pytest.fixture
def study(small_profile, tmp_path):
    return make_study(load_profile(small_profile()).settings["small"], tmp_path / "store", points=3)


def test_every_shipped_profile_is_valid_and_two_make_every_experiment():
    from starlight_nb.paper.catalogue import experiment_names
    from starlight_nb.paper.catalogue import notebook_parameters
    for name in profile_names():
        content = load_profile(name)
        assert set(content.experiments) <= set(experiment_names())
        if name == "smoke": assert set(content.experiments) == set(experiment_names())
        if name == "digits":
            of_paper = {one for one in experiment_names() if not one.startswith("beyond")}
            assert set(content.experiments) == of_paper
        if name in ("smoke", "digits"): assert content.minutes > 0
        for experiment in content.experiments:
            parameters = dict.fromkeys(notebook_parameters(experiment))
            del parameters["profile"]
            assert Experiment(experiment, name, **parameters).studies


@pytest.mark.parametrize(
    "old, new, message",
    [
        ("dataset =", "datset =", "settings.small: 'datset' is not known; did you mean 'dataset'"),
        ("epochs =", "epohcs =", "recipe: 'epohcs' is not known; did you mean 'epochs'"),
        (
            "[settings.small]",
            "[setings.small]",
            "profile mine: 'setings' is not known; did you mean 'settings'",
        ),
        (
            'architecture = "mlp"',
            'architecture = "mpl"',
            "settings.small.architecture: 'mpl' is not known; did you mean 'mlp'",
        ),
        ("sources = 3", "", "settings.small: the key 'sources' is missing"),
        ("sources = 3", "sources = 0", "settings.small.sources: a whole number of at least 1 is needed, not 0"),
        ("lr = 0.05", "lr = -1", "recipe.lr: a number of at least 0"),
        (
            'dataset = "digits"',
            'dataset = "digitz"',
            "settings.small.dataset: 'digitz' is not known; did you mean 'digits'",
        ),
        ("width = 4", "widht = 4", "settings.small.model: .*did you mean 'width'"),
        ("width = 4", "width = -4", "settings.small.model: "),
        (
            "model = { depth = 1, width = 4 }",
            "model = 3",
            "settings.small.model: a table is needed, not 3",
        ),
        ('title = "mine"', "title = 3", "title: text is needed, not 3"),
        (
            'title = "mine"',
            "minutes = { fig3_paths = 1 }",
            "profile mine, minutes: a number of at least 0 is needed, not {'fig3_paths': 1}",
        ),
        ("title =", "title", "profile: mine.toml is not valid TOML"),
    ],
)
def test_a_wrong_profile_is_one_clear_error(small_profile, old, new, message):
    with pytest.raises(ValueError, match=message):
        load_profile(small_profile({old: new}))


@pytest.mark.parametrize(
    "old, new, overrides, message",
    [
        (
            "stars = 1",
            "star = 1",
            {},
            "experiments.fig3_paths: 'star' is not known; did you mean 'stars'",
        ),
        ("stars = 1", "", {}, "experiments.fig3_paths.stars: missing in profile 'mine'"),
        (
            "sources = 2\nstars",
            "sources = 9\nstars",
            {},
            "sources: 9 are asked for, setting 'small' of profile 'mine' has 3 sources",
        ),
        ("", "", {"sources": 4}, "sources: 4 are asked for"),
        ("", "", {"heldouts": 3}, "heldouts: 3 are asked for"),
        ("", "", {"stars": 0}, "stars: a whole number of at least 1 is needed, not 0"),
        ("", "", {"stars": True}, "stars: a whole number of at least 1 is needed, not True"),
        ("", "", {"heldouts": 1}, "heldouts: a whole number of at least 2"),
        ("", "", {"points": 1}, "points: a whole number of at least 2"),
        ("", "", {"settings": ["small", "small"]}, "settings: a value occurs twice"),
        ("", "", {"settings": [3]}, "settings: 3 is not a name"),
        ("", "", {"settings": []}, "settings: at least one value"),
        ("", "", {"settings": ["smal"]}, "settings: 'smal' is not known; did you mean 'small'"),
    ],
)
def test_wrong_parameters_are_one_clear_error(small_profile, old, new, overrides, message):
    with pytest.raises(ValueError, match=message):
        Experiment("fig3_paths", small_profile({old: new}), **FIG3 | overrides).studies


def test_overrides_come_before_the_profile(small_profile):
    assert Experiment("fig3_paths", small_profile(), **FIG3 | {"stars": 2}).parameters == dict(
        settings=["small"], sources=2, stars=2, heldouts=2, points=3
    )


def test_seeds_never_meet_and_keys_depend_on_what_matters(study):
    setting = study.setting
    members = [
        regular_member(setting, role, n) for role in ("source", "heldout") for n in range(50)
    ]
    members += [star_member(setting, n, seed) for n in (1, 2, 3) for seed in range(5)]
    assert len({m.key for m in members}) == len(members)
    regular = [m.config["seed"] for m in members[:100]]
    assert len(set(regular)) == 100 and not set(regular) & {m.config["seed"] for m in members[100:]}
    other = replace(setting, recipe=setting.recipe.replace(lr=0.06))
    assert regular_member(other, "source", 0).key != members[0].key
    assert star_member(other, 2, 0).key != star_member(setting, 2, 0).key, (
        "a star changes with the recipe of its sources"
    )
    assert (
        regular_member(replace(setting, label="x", name="y"), "source", 0).key == members[0].key
    ), "labels do not matter"


def test_more_than_there_is_cannot_be_had(study):
    with pytest.raises(
        ValueError, match="source_counts: a star of 4 sources is asked for, setting 'small' has 3"
    ):
        study.stars([4], 1)
    with pytest.raises(ValueError, match="heldouts: 3 are asked for"):
        study.members("heldout", 3)
    with pytest.raises(ValueError, match="role: 'held' is not known; did you mean 'heldout'"):
        study.members("held", 1)


def test_measured_pairs_are_tidy_and_complete(study):
    held, stars = study.members("heldout", 2), study.stars([1, 2], 2)
    pairs = (
        regular_pairs(held)
        + regular_pairs(held, "none")
        + regular_pairs(held, "random-0")
        + star_pairs(stars, held, 2)
    )
    frame = measured_paths(study, pairs)
    assert list(frame.columns) == [*COLUMNS, "matching"] and frame.value.notna().all()
    assert len(pairs) == 3 + 4 * 2 + 2 * (1 + 2) and len(frame) == len(pairs) * (2 * 2 * 3 + 4)
    assert set(frame[frame.t.isna()].metric) == {"loss_barrier", "accuracy_barrier"}
    assert (frame[frame.t.isna()].value >= 0).all()
    ends = single_models(frame)
    assert len(ends) == (2 + 4 + 2) * 4 and ends.n_source.notna().sum() == 4 * 4
    regular = {
        matching: part.value.to_numpy()
        for matching, part in frame[frame.pair == "regular-regular"].groupby("matching")
    }
    assert set(regular) == {"none", "forward", "random-0"}
    assert not np.allclose(regular["none"], regular["forward"])


def test_a_second_study_trains_nothing(study, monkeypatch):
    held = study.members("heldout", 2)
    first = measured_paths(study, regular_pairs(held))
    monkeypatch.setattr("starlight_nb.paper.study.train_stacked", None)
    monkeypatch.setattr("starlight_nb.paper.study.path_losses", None)
    pd.testing.assert_frame_equal(first, measured_paths(study, regular_pairs(study.members("heldout", 2))))


def _train_in_study(profile, root):
    study = make_study(load_profile(profile).settings["small"], Store(root, every=0))
    train_stars(study)


def train_stars(study):
    for _, _, star in study.stars([2], 1):
        study.state(star)


def test_a_killed_study_goes_on_and_ends_with_the_same_bits(small_profile, tmp_path):
    """The star is killed in mid-training; its sources are there already, and its checkpoint is used
    and removed."""
    path = small_profile({"epochs = 1,": "epochs = 150,"})
    process = multiprocessing.get_context("spawn").Process(
        target=_train_in_study, args=(path, tmp_path / "killed")
    )
    process.start()
    study = make_study(load_profile(path).settings["small"], tmp_path / "killed")
    star = star_member(study.setting, 2, 0)
    checkpoint = study.store.checkpoint(star.config).path
    while not checkpoint.exists():
        time.sleep(0.005)
    time.sleep(0.1)
    process.kill()
    process.join()
    assert checkpoint.exists() and star.config not in study.store
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        train_stars(study)
    assert not list(study.store.root.glob("*/*.checkpoint"))
    whole = make_study(study.setting, tmp_path / "whole")
    train_stars(whole)
    assert study.store.path(star.config).read_bytes() == whole.store.path(star.config).read_bytes()


def test_an_unknown_matching_is_refused(study):
    a, b = study.members("heldout", 2)
    with pytest.raises(
        ValueError, match="matching: 'backward' is not known .accepted: "
    ):
        measured_paths(study, [Pair("regular-regular", a, b, "backward")])


def test_summaries_against_numpy():
    frame = pd.DataFrame(
        [
            dict(setting="s", pair="p", model_a=f"a-{i}", model_b=f"b-{j}", value=float(i * j))
            for i in range(4)
            for j in range(3)
        ]
    )
    row = summarise(frame, ["setting"]).iloc[0]
    assert (row.n, row["mean"]) == (12, frame.value.mean())
    assert row.sd == pytest.approx(np.std(frame.value, ddof=1))
    assert row.low <= row["mean"] <= row.high and bootstrap_mean(frame) == bootstrap_mean(frame)
    assert bootstrap_ratio(frame, frame) == (1.0, 1.0), "the same models are drawn in both"
    constant = frame.assign(value=2.0)
    assert bootstrap_mean(constant) == pytest.approx((2.0, 2.0))


def test_a_table_from_known_values():
    rows = [
        dict(
            setting="s",
            pair="regular-regular",
            model_a="h0",
            model_b="h1",
            matching=m,
            split="train",
            metric="loss_barrier",
            value=v,
        )
        for m, v in (("none", 3.0), ("forward", 1.0), ("random-0", 2.0))
    ]
    rows += [
        dict(
            setting="s",
            n_source=1,
            pair=f"star-{kind}",
            model_a="star-n1-s0",
            model_b=b,
            matching="forward",
            split="train",
            metric="loss_barrier",
            value=v,
        )
        for kind, b, v in (
            ("heldout", "h0", 0.25),
            ("heldout", "h1", 0.75),
            ("source", "s0", 0.125),
        )
    ]
    rows += [
        dict(
            setting="s",
            pair="single",
            model_a=a,
            model_b=None,
            matching=None,
            split="train",
            metric="loss",
            value=0.5,
        )
        for a in ("star-n1-s0", "h0")
    ]
    made = pd.DataFrame(rows).assign(dataset="digits", architecture="mlp")
    table = barrier_table(made).iloc[0]
    assert table[["setting", "data", "architecture", "N"]].tolist() == ["s", "digits", "mlp", "1"]
    accuracies = barrier_table(
        made.assign(metric=made.metric.str.replace("loss", "accuracy")), metric="accuracy"
    ).iloc[0]
    assert accuracies["star-heldout"] == table["star-heldout"]
    assert accuracies["regular accuracy"] == table["regular loss"]
    assert "regular loss" not in accuracies
    assert table["regular-regular, unmatched"] == "3.000"
    assert table["regular-regular"] == "1.000"
    assert table["star-source"] == "0.125"
    assert table["star-heldout / regular-regular"] == "0.50", "a single pair has no interval"
    again = made[made.pair == "regular-regular"].assign(model_b="h2")
    assert (
        barrier_table(pd.concat([made, again]))
        .iloc[0]["star-heldout / regular-regular"]
        .startswith("0.50 [")
    )
    assert table["star-heldout"].startswith("0.500 ± 0.354 [")
    assert table["star loss"] == table["regular loss"] == "0.500"
    more = pd.concat(
        [
            pd.DataFrame(rows),
            pd.DataFrame(rows)
            .query("pair == 'star-heldout'")
            .assign(n_source=2, model_a="star-n2-s0", value=0.1),
        ]
    )
    assert barrier_ratios(more, by=("setting", "n_source"))[
        ["n_source", "ratio"]
    ].values.tolist() == [[1, 0.5], [2, pytest.approx(0.1)]]
    assert order_spread(pd.DataFrame(rows))["sd over orders"].item() == pytest.approx(
        np.std([1, 2], ddof=1)
    )


LIKE = [
    ('like = "{0}"', "like: '{0}' is like this profile itself"),
    ('like = "{1}"', "like: '{0}' is like this profile itself"),
    ("like = 5", "like: "),
    ('like = "nope"', "like: 'nope' is not known"),
]


@pytest.mark.parametrize("text, message", LIKE)
def test_a_profile_is_like_another_one(text, message, tmp_path):
    one, other = (tmp_path / name for name in ("one.toml", "other.toml"))
    one.write_text(text.format(one, other))
    other.write_text(f'like = "{one}"')
    with pytest.raises(ValueError) as raised: load_profile(str(one))
    assert message.format(one, other) in str(raised.value)


def test_a_setting_has_as_many_models_as_there_are_seeds(tmp_path):
    text = (ROOT / "nbs/experiments/profiles/smoke.toml").read_text()
    path = tmp_path / "mine.toml"
    path.write_text(text.replace("sources = ", "sources = 1000", 1))
    with pytest.raises(ValueError, match=r"settings\.\w+\.sources: at most 10,000, not 1"):
        load_profile(str(path))
