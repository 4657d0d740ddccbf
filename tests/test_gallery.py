"""The gallery: claims come first, every image loads, every link leads somewhere, no text breaks the
page; in a real browser where there is one. And its figures for a reader's own use: of any size, in
the reader's style and axes, with nothing cut off."""

import errno
import html.parser
import json
import os
import re
import shutil
import warnings
from io import BytesIO

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from conftest import ROOT, needs_browser, said_by_a_browser

from starlight_nb.barriers import PathCurve, Plane, plane_grid
from starlight_nb.bma import reliability
from starlight_nb.paper import gallery
from starlight_nb.paper.catalogue import (
    experiment_names, experiment_title, profile_names, reading_order)
from starlight_nb.paper.claims import paper_claims, save_claims
from starlight_nb.paper.gallery import (
    PAPER, experiment_question, experiment_reading, write_gallery, write_kept_gallery)
from starlight_nb.paper.report import save_figure
from starlight_nb.paper.predictors import fusion_summary
from starlight_nb.plots import (
    PAIR_STYLES, figure_style, finish_figure, in_one_column, pair_counts, plot_averages,
    plot_candidates, plot_comparison, plot_fusion, plot_paths, plot_plane, plot_reliability,
    plot_samplings, plot_source_count, plot_star_pairs, plot_trend, plot_ways, plot_widths)
from starlight_nb.statistics import barrier_points
from starlight_nb.paper.published import comparison_table, save_comparison
from starlight_nb.paper.experiment import Experiment
from starlight_nb.paper.profiles import load_profile
from starlight_nb.paper.report import save_data, save_summary, save_table
from starlight_nb.paper.study import COLUMNS
from starlight_nb.runtime.files import write_atomic


def barriers(setting, regular, star, stars=2, n_source=4):
    "Barriers between three held-out solutions, and of stars to them, with so much in the mean."
    about = dict(
        setting=setting,
        architecture="mlp",
        dataset="digits",
        split="train",
        metric="loss_barrier",
        t=None,
    )
    pairs = [
        (None, None, "regular-regular", f"heldout-{a}", f"heldout-{b}", regular)
        for a, b in ((0, 1), (0, 2), (1, 2))
    ]
    pairs += [
        (n_source, seed, "star-heldout", f"star-n{n_source}-s{seed}", f"heldout-{b}", star)
        for seed in range(stars)
        for b in range(3)
    ]
    pairs += [
        (n_source, seed, "star-source", f"star-n{n_source}-s{seed}", f"source-{b}", star / 2)
        for seed in range(stars)
        for b in range(3)
    ]
    rows = [
        about
        | dict(
            n_source=n,
            star_seed=seed,
            pair=pair,
            model_a=a,
            model_b=b,
            value=value * (0.9 + 0.1 * (i % 3)),
        )
        for i, (n, seed, pair, a, b, value) in enumerate(pairs)
    ]
    return pd.concat(
        [
            pd.DataFrame(rows, columns=COLUMNS),
            pd.DataFrame(rows, columns=COLUMNS).assign(split="test"),
        ]
    )


def make_report(folder, monkeypatch, *frames, tested=True, caption="Barriers <of stars>. In nats."):
    "What Fig. 1's notebook leaves, without its trainings, and the gallery."
    monkeypatch.setenv("STARLIGHT_OUT", str(folder))
    experiment = Experiment(
        "fig1_source_count",
        "smoke",
        settings=None,
        source_counts=None,
        stars=None,
        heldouts=None,
        points=None,
    )
    data = save_data(experiment, pd.concat(frames, ignore_index=True))
    save_figure(experiment, plot_source_count(data), caption)
    save_table(experiment, data.head(3)[["setting", "pair", "value"]])
    save_comparison(
        experiment,
        comparison_table(
            ratios={
                "part": pd.DataFrame(
                    [
                        dict(
                            setting="A",
                            n_source=4,
                            ratio=0.5,
                            low=0.4,
                            high=0.6,
                            lowest=0.2,
                            highest=0.3,
                            rows=2,
                            fewest=5,
                            most=50,
                            overlap=False,
                        )
                    ]
                )
            }
        ),
    )
    if tested: save_claims(experiment, data)
    experiment.summary["finding"] = "A & B: 3 < 4."  # as older reports have it
    save_summary(experiment)
    write_atomic(folder / "notebooks/fig1_source_count.ipynb", "{}")
    write_atomic(
        folder / "evidence.json",
        json.dumps(
            dict(machine="a machine of its own", wall_seconds=dict(fig1_source_count=1234.5))
        ),
    )
    write_gallery(folder, "A small report")
    return folder


@pytest.fixture
def small_report(tmp_path, monkeypatch):
    return make_report(
        tmp_path / "report",
        monkeypatch,
        barriers("A", 0.5, 0.1),
        barriers("B", 0.5, 0.6),
        barriers("C", 0.02, 0.02),
    )


class Page(html.parser.HTMLParser):
    "What a page refers to, and the places in it."
    def __init__(self, text):
        super().__init__()
        self.links, self.places, self.images = [], set(), []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.links += [attributes[name] for name in ("src", "href") if name in attributes]
        self.places |= {attributes["id"]} if "id" in attributes else set()
        self.images += [attributes] if tag == "img" else []


def dead_links(report):
    "Links of both forms of the gallery that lead nowhere; the paper's own page is taken as there."
    page, text = Page((report / "index.html").read_text()), (report / "README.md").read_text()
    places = {"index.html": page.places, "README.md": set(re.findall(r'<a id="(.+?)">', text))}
    links = {"index.html": page.links, "README.md": re.findall(r"\]\(([^)\s]+)\)", text)}
    return [
        (form, link)
        for form in links
        for link in links[form]
        if link != PAPER and not (link[1:] in places[form] if link.startswith("#") else (report / link).is_file())
    ]


@pytest.mark.parametrize("place", ["reports/small", "runs/small", "small"])
def test_only_a_report_of_a_project_links_to_its_readme(small_report, tmp_path, place):
    project = tmp_path / "project"
    report = shutil.copytree(small_report, project / place)
    (project / "README.md").write_text("# A project\n")
    write_gallery(report, "A small report")
    links = Page((report / "index.html").read_text()).links
    assert ("../../README.md" in links) == place.startswith("reports/")
    assert dead_links(report) == []


def committed_reports():
    return [path.parent for path in sorted((ROOT / "reports").glob("*/index.html"))]


def test_every_link_leads_somewhere(small_report):
    assert dead_links(small_report) == []
    links = Page((small_report / "index.html").read_text()).links
    assert {
        "#fig1_source_count", "evidence.json", "figures/fig1_source_count.svg",
        "tables/fig1_source_count.tex", "tables/fig1_source_count_published.csv",
        "notebooks/fig1_source_count.ipynb", "data/fig1_source_count.json",
        "claims/fig1_source_count.csv", "#claims", "#fig1_source_count-claims",
    } <= set(links)
    (small_report / "tables/fig1_source_count.tex").unlink()
    assert dead_links(small_report) == [
        (form, "tables/fig1_source_count.tex") for form in ("index.html", "README.md")
    ]


@pytest.mark.parametrize("report", committed_reports(), ids=lambda path: path.name)
def test_the_links_of_committed_reports_lead_somewhere(report):
    assert dead_links(report) == []


def test_the_gallery_of_a_run_is_whole(smoke_report):
    report = smoke_report / "report"
    # made inside a checkout and copied, it still links to the README of that checkout
    assert {link for _, link in dead_links(report)} <= {"../../README.md"}
    page, text = (report / "index.html").read_text(), (report / "README.md").read_text()
    plain = plain_text(page)
    for form, heading in ((page, "<h2 id='{}'>"), (text, '<a id="{}">')):
        positions = [form.index(heading.format(name)) for name in experiment_names()]
        assert positions == sorted(positions), "in reading order"
    for name in experiment_names():
        summary = json.loads((report / f"data/{name}.json").read_text())
        assert experiment_question(name) and experiment_title(name) in plain
        assert all(figure["caption"] in plain for figure in summary["figures"])
        assert all(
            re.search(r"\d", figure["caption"]) or figure["file"].endswith("_test.png")
            for figure in summary["figures"]
        ), "a caption says how many"


def plain_text(page):
    "What a page says, without its markup."
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", page)).split())


BROWSED = """<script>addEventListener('load', () => {
  document.querySelectorAll('details').forEach(d => d.open = true);
  const root = document.documentElement, style = getComputedStyle(document.body);
  parent.postMessage(JSON.stringify({
    images: [...document.images].map(i => [i.getAttribute('src'), i.naturalWidth]),
    behind: [...document.images].map(i => getComputedStyle(i).backgroundColor),
    dead: [...document.querySelectorAll("a[href^='#']")].map(a => a.hash.slice(1))
      .filter(id => !document.getElementById(id)),
    wide: root.scrollWidth - root.clientWidth,
    boxes: [...document.querySelectorAll('.scroll')].map(b => b.scrollWidth - b.clientWidth),
    colours: [style.color, style.backgroundColor],
    requests: performance.getEntriesByType('resource').map(r => new URL(r.name).protocol)}), '*'); })
</script></body>"""
def browse(report, folder, width, scheme="light"):
    "What a browser makes of a copy of the page, to which a script is added that says it."
    shutil.copytree(report, folder)
    return said_by_a_browser(folder / "index.html", BROWSED, width, scheme)


@needs_browser
@pytest.mark.parametrize("width, scheme", [(360, "dark"), (1280, "light")])
def test_a_browser_shows_every_image(small_report, tmp_path, width, scheme):
    said = browse(small_report, tmp_path / "copy", width, scheme)
    assert [src for src, _ in said["images"]] == ["figures/fig1_source_count.png"]
    assert all(natural > 0 for _, natural in said["images"])
    assert said["dead"] == [] and said["wide"] <= 0 and set(said["requests"]) <= {"file:"}
    assert set(said["behind"]) == {"rgb(255, 255, 255)"}, "figures are drawn on white"
    text, behind = (sum(map(int, re.findall(r"\d+", colour)[:3])) for colour in said["colours"])
    assert (text > behind) == (scheme == "dark")
    assert len(said["boxes"]) == 4 and (width > 500 or max(said["boxes"]) > 0)


@needs_browser
def test_a_browser_tells_what_is_missing(small_report, tmp_path):
    "Otherwise the test above could not fail."
    for figure in (small_report / "figures").glob("*.png"):
        figure.write_bytes(b"no picture")
    page = small_report / "index.html"
    page.write_text(
        page.read_text()
        .replace("<h2 id='fig1_source_count'>", "<h2>")
        .replace("<h3", "<div style='width: 3000px'>.</div><h3", 1)
    )
    said = browse(small_report, tmp_path / "copy", 500)
    assert said["images"] == [["figures/fig1_source_count.png", 0]]
    assert set(said["dead"]) == {"fig1_source_count"}
    assert said["wide"] > 1000


@needs_browser
@pytest.mark.parametrize("report", committed_reports(), ids=lambda path: path.name)
def test_a_browser_shows_every_image_of_committed_reports(report, tmp_path):
    said = browse(report, tmp_path / "copy", 360)
    assert said["images"] and all(natural > 0 for _, natural in said["images"])
    assert said["dead"] == [] and said["wide"] <= 0 and set(said["requests"]) <= {"file:"}


def test_claims_come_first_and_are_counted(small_report):
    page, text = (small_report / "index.html").read_text(), (small_report / "README.md").read_text()
    assert page.index("<h2 id='claims'>") < page.index("<h2 id='experiments'>") < page.index("<figure>")
    below = paper_claims()["stars-below-regular"]
    for form in (plain_text(page), text):
        assert form.count(below.text) == 5, "over all, in Fig. 1, and in each of its three settings"
        assert form.count("of 2: holds in 1, fails in 1 (B)") == 2
        assert form.count("not counted, connected anyway: 1 (C)") == 6, "of three claims, twice"
    assert page.count("<strong class='fails'>✗ fails</strong>") == text.count("✗ **fails**") > 0
    assert "A & B" not in plain_text(page), "no finding beside claims"


def test_without_claims_the_finding_is_shown(tmp_path, monkeypatch):
    report = make_report(tmp_path / "report", monkeypatch, barriers("A", 0.5, 0.1), tested=False)
    page, text = (report / "index.html").read_text(), (report / "README.md").read_text()
    assert "A &amp; B: 3 &lt; 4." in page and r"A \& B: 3 \< 4." in text
    assert "id='claims'" not in page and 'id="claims"' not in text
    path = report / "data/fig1_source_count.json"
    summary = json.loads(path.read_text())
    del summary["finding"]
    path.write_text(json.dumps(summary))
    write_gallery(report, "A small report")
    assert "A &amp; B" not in (report / "index.html").read_text()


@pytest.mark.parametrize("kept_before", [False, True])
@pytest.mark.parametrize("fails", ["claims_again.csv", "README.md", "index.html"])
def test_verdicts_are_kept_with_their_page_or_not_at_all(
    fails, kept_before, small_report, tmp_path, monkeypatch
):
    other = make_report(tmp_path / "other", monkeypatch, barriers("A", 0.5, 0.6))
    if kept_before: write_kept_gallery(small_report, small_report, "A small report")
    contents = lambda: {path.name: path.read_bytes() for path in small_report.iterdir()
                        if path.is_file()}
    before = contents()

    def full(old, new, replace=os.replace):
        if str(new).endswith(fails): raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        replace(old, new)
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", full)
        with pytest.raises(OSError, match="the disk is full"):
            write_kept_gallery(small_report, other, "A small report")
    assert contents() == before
    write_kept_gallery(small_report, other, "A small report")
    assert "with other seeds fails" in (small_report / "README.md").read_text()
    assert contents().keys() == before.keys() | {"claims_again.csv"}


def test_claims_of_an_experiment_that_is_not_in_the_report_are_not_shown(small_report):
    (small_report / "data/fig1_source_count.json").unlink()
    write_gallery(small_report, "A small report")
    assert "id='claims'" not in (small_report / "index.html").read_text()


HOSTILE = r"A|B <b>c</b> `d` *e* _f_ [g](h) ~~i~~ $j$ &amp; k\ \| l"


def test_no_label_breaks_the_page(tmp_path, monkeypatch):
    "In a table, a caption and the title, in both forms; a list or a heading cannot be begun either."
    frames = [barriers(HOSTILE, 0.5, 0.1), barriers("- # 1. m", 0.5, 0.1)]
    report = make_report(tmp_path / "report", monkeypatch, *frames, caption=f"{HOSTILE}. In nats.")
    write_gallery(report, HOSTILE)
    from nbconvert.filters import markdown2html
    text = (report / "README.md").read_text()
    for page in ((report / "index.html").read_text(), markdown2html(text)):
        cells = [html.unescape(re.sub(r"<[^>]+>", "", cell)) for cell in
                 re.findall(r"<td[^>]*>(.*?)</td>", page, re.S)]
        assert cells.count(HOSTILE) == 7, "a row for each of four claims, three of the other table"
        assert "<b>c</b>" not in page and "<em>e</em>" not in page and "<code>d</code>" not in page
        assert plain_text(page.partition("<main>")[2] or page).count(HOSTILE) == 9, "title, caption"


def notebook(folder, monkeypatch, *cells):
    "Experiments of which one has these cells, with id and Markdown."
    content = [dict(id=name, cell_type="markdown", source=[text]) for name, text in cells]
    (folder / "one.ipynb").write_text(json.dumps(dict(cells=content)))
    monkeypatch.setattr(gallery, "experiments_folder", lambda: folder)


def test_question_and_reading_come_from_the_notebook(tmp_path, monkeypatch):
    notebook(tmp_path, monkeypatch,
             ("md-title", "# Fig. 9: one\n\n> Is it\n> so?\n\nProse."),
             ("how-to-read", "## How to read it\n\nDots are *[stars](../13_star.ipynb)*.\n\nMore."))
    assert experiment_question("one") == "Is it so?"
    assert experiment_reading("one") == "Dots are *stars*.\n\nMore."
    notebook(tmp_path, monkeypatch, ("md-title", "# Fig. 9: one"))
    assert experiment_question("one") == experiment_reading("one") == ""


def test_how_to_read_a_figure_stands_below_it(small_report, monkeypatch):
    monkeypatch.setattr(gallery, "experiment_reading", lambda name: "Dots are *stars*, $N$ of them.")
    write_gallery(small_report, "A small report")
    page = (small_report / "index.html").read_text()
    assert "<p>Dots are <em>stars</em>, <em>N</em> of them.</p>" in page
    assert (page.index("</figure>") < page.index("id='fig1_source_count-how-to-read'")
            < page.index("id='fig1_source_count-claims'"))
    assert "Dots are *stars*, $N$ of them." in (small_report / "README.md").read_text()
    assert dead_links(small_report) == []


def test_scrolling_boxes_can_be_reached_and_have_names(small_report):
    boxes = re.findall(r"<div class='scroll'([^>]*)>", (small_report / "index.html").read_text())
    assert len(boxes) == 4
    assert all("tabindex='0'" in box and re.search("aria-label='.+'", box) for box in boxes)


def test_nothing_in_the_gallery_varies_from_run_to_run(small_report):
    for name in ("index.html", "README.md"):
        text = (small_report / name).read_text()
        assert "a machine of its own" not in text and "1234" not in text and "evidence.json" in text
        write_gallery(small_report, "A small report")
        assert (small_report / name).read_text() == text


def test_the_page_is_escaped_and_has_alternative_texts(small_report):
    page = (small_report / "index.html").read_text()
    assert "&lt;of stars&gt;" in page and "<of stars>" not in page
    assert [image["alt"] for image in Page(page).images] == ["Barriers <of stars>"]
    assert "lang='en'" in page
    assert "width=device-width" in page


def test_figures_come_first_then_tables_then_appendices():
    names = [
        "appendix_points", "fig0_plane", "table2_fusion", "fig4_bma", "table1_barriers",
        "appendix_heldouts",
    ]
    assert sorted(names, key=reading_order) == [
        "fig0_plane", "fig4_bma", "table1_barriers", "table2_fusion", "appendix_heldouts",
        "appendix_points",
    ]
    titles = [experiment_title(name) for name in experiment_names()]
    assert all(re.match(r"(Fig\. \d|Table \d|Appendix|Beyond the paper): \w", title) for title in titles)


def saved(name, setting=None):
    "The rows of the committed report on digits, of one setting."
    rows = pd.read_csv(ROOT / f"reports/digits/data/{name}.csv", low_memory=False)
    return rows if setting is None else rows[rows.setting == setting]


def plane_of_three():
    "A plane whose coordinates are the weights of its networks, and a grid."
    ends = [{"weight": torch.tensor([end])} for end in ([0.0, 0.0], [2.0, 0.0], [1.0, 1.0])]
    plane = Plane(torch.nn.Linear(2, 1, bias=False), *ends)
    return plane, plane_grid(plane, 7)


def curve(height=1.0, **options):
    "A curve that rises by a quarter of the height."
    t = np.linspace(0, 1, 11)
    rise = height * t * (1 - t)
    return PathCurve(t, {"train": rise, "test": rise}, {"train": 1 - rise, "test": 1 - rise}, **options)


def table_of_bins():
    scores = pd.DataFrame(dict(confidence=np.linspace(0.3, 1, 40), right=[True, False] * 20))
    return reliability(scores)


# Every figure: how it is drawn from what a reader has, and its number of panels.
FIGURES = {
    "curve": (lambda **o: plot_paths(curve(), **o), 2),
    "curves": (lambda **o: plot_paths({"as trained": curve(), "matched": curve(0.2)}, metric="loss", **o), 1),
    "paths": (lambda **o: plot_paths(saved("fig3_paths", "ResNet 16"), **o), 2),
    "sources": (lambda **o: plot_source_count(saved("fig1_source_count", "ResNet 16"), **o), 1),
    "averages": (lambda **o: plot_averages(saved("fig4_bma", "MLP 5x128"), **o), 4),
    "reliability": (lambda **o: plot_reliability(saved("fig4_bma", "MLP 5x128"), **o), 2),
    "own reliability": (lambda **o: plot_reliability({"mine": table_of_bins()}, **o), 2),
    "fusion": (lambda **o: plot_fusion(fusion_summary(saved("table2_fusion", "MLP 5x128")), **o), 1),
    "trend": (lambda **o: plot_trend(saved("fig2_width_depth"), **o), 1),
    "widths": (lambda **o: plot_widths(
        barrier_points(saved("appendix_relationship")).assign(width=[8, 12, 16, 32]), **o), 2),
    "samplings": (lambda **o: plot_samplings(saved("appendix_t_sampling", "MLP 5x128"), **o), 1),
    "comparison": (lambda **o: plot_comparison(saved("appendix_rematching"), "rematch", kinds=tuple(PAIR_STYLES), **o), 1),
    "plane": (lambda **o: plot_plane(*plane_of_three(), np.add.outer(np.arange(7.0), np.arange(7.0)), **o), 1),
    "planes": (lambda **o: plot_plane(saved("fig0_plane", "ResNet 16").query("ends == 'two sources'"), **o), 2),
}
OWN_STYLE = {"font.size": 8, "font.family": "serif", "axes.titlesize": 8, "axes.labelsize": 8,
             "xtick.labelsize": 8, "ytick.labelsize": 8, "legend.fontsize": 8}


@pytest.fixture(autouse=True)
def no_open_figures():
    yield
    plt.close("all")


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_for_a_column_of_a_paper_is_whole(name):
    draw, panels = FIGURES[name]
    size = (3.25, 2.6 + 0.7 * (panels - 1))
    with plt.rc_context(OWN_STYLE):
        before = dict(plt.rcParams)
        figure = draw(figsize=size)
        assert dict(plt.rcParams) == before
        figure.savefig(BytesIO(), format="png")
        box = figure.get_tightbbox()
    assert tuple(figure.get_size_inches()) == size and not plt.get_fignums()
    assert min(box.x0, box.y0, size[0] - box.x1, size[1] - box.y1) > -0.01  # a pixel
    for axis in figure.axes:
        assert axis.get_position().width > 0.3 and axis.xaxis.label.get_fontsize() == 8
    assert all(text.get_fontsize() == 8 for legend in figure.legends for text in legend.get_texts())


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_is_drawn_into_axes_that_there_are(name):
    draw, panels = FIGURES[name]
    figure, axes = plt.subplots(1, panels + 1)
    assert draw(ax=list(axes[:panels])) is figure and plt.get_fignums()
    assert all(axis.has_data() for axis in axes[:panels]) and not axes[panels].has_data()
    assert not figure.legends and figure.get_layout_engine() is None
    if panels > 1:
        with pytest.raises(ValueError, match=f"ax: {panels} axes are needed"): draw(ax=list(axes))
    with pytest.raises(ValueError, match="figsize: the figure of `ax` has a size already"):
        draw(ax=list(axes[:panels]), figsize=(3, 2))


def laid_out(figure):
    "The places of a figure's panels, once there are some; all labels are in the figure and apart."
    figure.draw_without_rendering()
    labels = [axis.yaxis.label.get_window_extent() for axis in figure.axes]
    assert not any(a.overlaps(b) for n, a in enumerate(labels) for b in labels[:n])
    assert all(box.y0 > -1 and box.y1 < figure.bbox.height + 1 for box in labels)
    return [axis.get_position() for axis in figure.axes]


@pytest.mark.parametrize("size", [(3.25, 2.0), (6.5, 2.0), (6.5, 1.6)])
def test_panels_lie_side_by_side_in_a_wide_figure(size):
    with plt.rc_context(OWN_STYLE):
        figure = plot_paths(curve().to_frame().assign(setting="A"), figsize=size)
        left, right = laid_out(figure)
        assert abs(left.y0 - right.y0) < 0.01 and left.x1 < right.x0 and left.height > 0.35
        assert [axis.get_xlabel() for axis in figure.axes] == ["$t$", "$t$"]
        assert figure.get_suptitle() == "A" and not any(axis.get_title() for axis in figure.axes)
        with plt.rc_context({"figure.figsize": size}):
            assert laid_out(plot_paths(curve()))[1].x0 > left.x1, "also where a setting chose the size"
        figure = FIGURES["planes"][0](figsize=(6.5, 2.2))
        assert [axis.get_xlabel() for axis in figure.axes] == ["", "from one solution to the other"]


def test_panels_are_stacked_in_a_high_figure_and_where_there_are_several_columns():
    both = pd.concat([curve().to_frame().assign(setting=name) for name in "AB"])
    for figure in (plot_paths(curve(), figsize=(3.25, 3)), plot_paths(curve())):
        above, below = laid_out(figure)
        assert above.y0 > below.y1 and abs(above.x0 - below.x0) < 0.01
    assert [axis.get_subplotspec().get_geometry()[:2] for axis in plot_paths(both, figsize=(9, 4)).axes] == 4 * [(2, 2)]


@pytest.mark.parametrize("name, size", [("paths", (3.25, 2.2)), ("averages", (4, 2)), ("reliability", (3.25, 2.6)),
                                        ("sources", (3.25, 1)), ("planes", (3, 2.1))])
def test_a_figure_that_is_too_low_says_which_height_is_needed(name, size):
    with plt.rc_context(OWN_STYLE):
        with pytest.raises(ValueError, match="^figsize: .* are too low") as error: FIGURES[name][0](figsize=size)
        needed = float(re.search(r"about (.*) inches of height", str(error.value))[1])
        laid_out(FIGURES[name][0](figsize=(size[0], needed)))
    assert not plt.get_fignums()


def test_a_flat_plane_and_a_strange_letter_are_drawn_at_any_size():
    ends = [{"weight": torch.tensor([end])} for end in ([0.0, 0.0], [20.0, 0.0], [10.0, 1.0])]
    plane = Plane(torch.nn.Linear(2, 1, bias=False), *ends)
    plot_plane(plane, plane_grid(plane, 7), np.ones((7, 7)), figsize=(3.25, 2.5))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Matplotlib's, of a letter that its font has not
        plot_paths({"\u0ed7": curve()}, figsize=(3.25, 3))


def test_any_axes_can_be_finished():
    figure = plt.figure(layout="constrained")
    axes = [figure.add_axes((0.1, low, 0.8, 0.3)) for low in (0.1, 0.6)]
    for axis in axes: axis.plot([0, 1], label="line")
    for given in (axes[0], axes, np.array(axes)[:, None]):
        assert len(finish_figure(figure, given, figsize=(6.4, 4.8)).legends.pop().get_texts()) == 1


@pytest.mark.parametrize("name", FIGURES)
def test_a_legend_in_axes_that_there_are_is_small_and_can_be_left_out(name):
    draw, panels = FIGURES[name]
    axes = list(plt.subplots(1, panels, squeeze=False)[1][0])
    draw(ax=axes)
    named = [axis for axis in axes if axis.get_legend_handles_labels()[0]]
    assert [axis for axis in axes if axis.get_legend()] == named[:1], "in the first that has series"
    for axis in named[:1]:
        assert axis.get_legend()._loc == 0, "Matplotlib's best"
        assert axis.get_legend().get_texts()[0].get_fontsize() < plt.rcParams["font.size"]
    axes = list(plt.subplots(1, panels, squeeze=False)[1][0])
    draw(ax=axes, legend=False)
    assert not any(axis.get_legend() for axis in axes) and not draw(legend=False).legends


def test_a_legend_in_axes_hides_little():
    _, axis = plt.subplots(figsize=(3.25, 2.2), layout="constrained")
    plot_paths({"as trained": curve(), "matched": curve(0.5), "star": curve(0.1)}, metric="loss", ax=axis).draw_without_rendering()
    box = axis.get_legend().get_window_extent()
    assert box.width < 0.4 * axis.bbox.width and box.height < 0.35 * axis.bbox.height
    hidden = sum(box.count_contains(axis.transData.transform(line.get_xydata())) for line in axis.lines)
    assert hidden <= 1


@pytest.mark.parametrize("label", ["W" * 80, "a residual network of sixteen layers, trained for 200 epochs without decay, no. 1"])
def test_a_long_title_makes_no_figure_wider(label):
    rows = saved("fig1_source_count", "ResNet 16")
    for others in ([], ["B", "C"]):
        frame = pd.concat([rows.assign(setting=name) for name in [label, *others]])
        with figure_style():
            figure = plot_source_count(frame)
            figure.draw_without_rendering()
        assert figure.get_tightbbox().width < 3.3 * (1 + len(others))
        title = figure.axes[0].get_title()
        assert "\n" in title and re.sub(r"\s", "", title) == label.replace(" ", "")


def test_the_labels_of_shipped_profiles_are_in_one_line():
    rows = saved("fig1_source_count", "ResNet 16")
    labels = {own.label for name in profile_names() for own in load_profile(name).settings.values()}
    assert len(labels) > 10
    with figure_style():
        for label in labels:
            assert plot_source_count(rows.assign(setting=label)).axes[0].get_title() == label


def test_axes_come_in_every_form_and_nothing_else_does():
    figure, axes = plt.subplots(2, 1)
    assert plot_paths(curve(), ax=axes) is plot_paths(curve(), ax=tuple(axes)) is figure
    assert plot_paths(curve(), ax=dict(zip("ab", axes))) is figure
    alone = plt.figure().add_subplot()
    plot_paths({"mine": curve()}, ax=alone)  # a single axes: the loss alone
    assert alone.get_ylabel() == "loss, train (nats)" and alone.get_legend().texts[0].get_text() == "mine"
    with pytest.raises(ValueError, match="ax: Matplotlib axes are needed, not str"):
        plot_paths(curve(), ax="mine")
    with pytest.raises(ValueError, match="ax: axes of its own are needed for each panel"):
        plot_paths(curve(), ax=[alone, alone])
    for name in ("3d", "polar"):
        with pytest.raises(ValueError, match=f"ax: flat axes with x and y are needed, not {name}"):
            plot_paths(curve(), ax=plt.figure().add_subplot(projection=name))
    assert in_one_column(plt.figure()) is None


@pytest.mark.parametrize("column", ["setting", "pair"])
def test_a_column_that_says_nothing_is_as_good_as_none(column):
    "As in a table without settings or names that was saved and read again."
    frame = curve().to_frame()
    for nothing in (None, np.nan, ""):
        above, below = plot_paths(frame.assign(**{column: nothing})).axes
        assert len(above.lines) == len(below.lines) == 1 and not above.get_title()
    both = pd.concat([frame.assign(setting=name) for name in ("A", None)])
    assert [axis.get_title() for axis in plot_paths(both, metric="loss").axes] == ["A", ""]


def test_many_settings_are_drawn_where_the_size_is_chosen():
    frame = pd.concat([curve().to_frame().assign(setting=n) for n in range(12)])
    assert len(plot_paths(frame, metric="loss", figsize=(20, 2)).axes) == 12
    with plt.rc_context({"figure.figsize": (20, 3)}):
        assert len(plot_paths(frame, metric="loss").axes) == 12


def test_the_name_of_a_star_is_above_its_mark():
    figure = plot_plane(*plane_of_three(), np.ones((7, 7)), names=("one", "two", "star"))
    figure.draw_without_rendering()
    axis, = figure.axes
    ends = {text.get_text(): text for text in axis.texts}
    marks = [line for line in axis.lines if line.get_marker() in ("o", "*")]
    for text in ends.values():
        own = [line for line in marks if np.allclose(line.get_xydata(), text.xy)]
        assert own and text.get_window_extent().y0 >= max(line.get_window_extent().y1 for line in own) - 1


def test_a_figure_has_the_style_of_its_reader():
    with plt.rc_context({"lines.linewidth": 3.5, "figure.figsize": (5, 4), "axes.spines.top": False}):
        figure = plot_paths(curve())
        assert figure.axes[0].lines[0].get_linewidth() == 3.5
        assert tuple(figure.get_size_inches()) == (5, 4)
        assert not figure.axes[0].spines["top"].get_visible()
    with plt.style.context("ggplot"):
        line, = plot_paths({"mine": curve()}, metric="loss").axes[0].lines
        assert line.get_color() == plt.rcParams["axes.prop_cycle"].by_key()["color"][0]
    assert plot_paths(curve()).axes[0].spines["top"].get_visible()


def test_the_figure_of_a_report_does_not_depend_on_the_settings_of_a_machine():
    drawn = []
    for own in ({}, {"font.size": 20, "figure.figsize": (9, 9), "lines.linewidth": 5, "image.cmap": "jet"}):
        with plt.rc_context(own), figure_style():
            contents = BytesIO()
            FIGURES["planes"][0]().savefig(contents, format="png")
            drawn.append(contents.getvalue())
    assert drawn[0] == drawn[1]


@pytest.mark.parametrize("losses", [
    np.full((7, 7), 0.3), np.linspace(0.2, 0.25, 49).reshape(7, 7), np.zeros((7, 7)), np.linspace(-3, -1, 49).reshape(7, 7),
    np.geomspace(1e-9, 1e3, 49).reshape(7, 7), np.where(np.eye(7) > 0, np.inf, 1.5), np.where(np.eye(7) > 0, np.nan, 2.5)])
def test_the_bar_of_a_plane_has_ticks(losses):
    figure = plot_plane(*plane_of_three(), losses, loss_name="mean squared error")
    figure.draw_without_rendering()
    bar, = figure.axes[0].child_axes
    low, high = bar.get_ylim()
    shown = [text.get_text() for text, place in zip(bar.get_yticklabels(), bar.get_yticks()) if low <= place <= high]
    assert 1 <= len(shown) <= 8 and len(set(shown)) == len(shown) and all(shown)
    assert bar.get_ylabel() == "mean squared error, train"


def refused():
    "What no figure can draw, and the start of the message."
    paths, sources = saved("fig3_paths", "ResNet 16"), saved("fig1_source_count", "ResNet 16")
    plane, points = plane_of_three()
    losses = np.ones((7, 7))
    own, fusion = curve().to_frame(), fusion_summary(saved("table2_fusion", "MLP 5x128"))
    only_test = PathCurve(np.linspace(0, 1, 11), {"test": np.zeros(11)})
    return {
        "a list": (lambda: plot_paths([curve()]), "curves: a PathCurve, a dict of them by name, or a data frame is needed, not list"),
        "no curve": (lambda: plot_paths({"mine": 3}), "curves: 'mine' is no PathCurve but int"),
        "no curves": (lambda: plot_paths({}), "curves: at least one is needed"),
        "another split": (lambda: plot_paths({"a": curve(), "b": only_test}), "curves: 'b' has no loss of the split 'train' (there are: test)"),
        "too many curves": (lambda: plot_paths({f"run {n}": curve() for n in range(11)}), "curves: at most 10 names of one's own can be told apart in one figure, and there are 11"),
        "too many pairs": (lambda: plot_paths(pd.concat([own.assign(pair=n) for n in range(11)])), "pair: at most 10 names"),
        "too many settings": (lambda: plot_paths(pd.concat([own.assign(setting=n) for n in range(12)])), "figsize: 12 columns of panels would be 39.6 inches wide; draw at most 10"),
        "hidden name": (lambda: plot_paths({"_x": curve(), "y": curve()}), "curves: '_x' cannot be in a legend"),
        "empty name": (lambda: plot_paths({"": curve(), "y": curve()}), "curves: '' cannot be in a legend"),
        "hidden table": (lambda: plot_reliability({"_x": table_of_bins()}), "tables: '_x' cannot be in a legend"),
        "some pairs": (lambda: plot_paths(pd.concat([own, own.assign(pair="a")])), "pair: nan cannot be in a legend"),
        "text as values": (lambda: plot_paths(own.assign(value="x")), "value: numbers are needed, not 'x'"),
        "numbers as text": (lambda: plot_paths(own.assign(value=own.value.astype(str))), "value: numbers are needed, not '0.0'"),
        "t beyond the path": (lambda: plot_paths(own.assign(t=2 * own.t)), "t: numbers from 0 to 1 are needed, not 1.2"),
        "t as text": (lambda: plot_paths(own.assign(t="a")), "t: numbers from 0 to 1 are needed, not 'a'"),
        "short curve": (lambda: plot_paths(PathCurve(np.linspace(0, 1, 11), {"train": [0, 1, 0]})), "loss: a value for each of the ts, of shape (11,), is needed for 'train', not of shape (3,)"),
        "size of one number": (lambda: plot_paths(curve(), figsize=3), "figsize: width and height in inches, two numbers above 0, are needed, not 3"),
        "size as text": (lambda: plot_paths(curve(), figsize="3x2"), "figsize: width and height in inches, two numbers above 0, are needed, not '3x2'"),
        "no width": (lambda: plot_paths(curve(), figsize=(0, 2)), "figsize: width and height in inches, two numbers above 0, are needed, not (0, 2)"),
        "sources as text": (lambda: plot_source_count(sources.assign(n_source="1")), "n_source: numbers of at least 1 are needed, not '1'"),
        "zero sources": (lambda: plot_source_count(sources.assign(n_source=0)), "n_source: numbers of at least 1 are needed, not 0"),
        "fewer sources": (lambda: plot_fusion(fusion.assign(n_source=-1)), "n_source: numbers of at least 1 are needed, not -1"),
        "no width of a network": (lambda: plot_widths(pd.DataFrame(dict(setting=["a"], regular=1.0, star=1.0, width=0))), "width: numbers above 0 are needed, not 0"),
        "points as text": (lambda: plot_trend(pd.DataFrame(dict(setting=["a"], regular=["1"], star=1.0))), "regular: numbers are needed, not '1'"),
        "places as text": (lambda: plot_plane(own.assign(x="1", y=0)), "x: numbers are needed, not '1'"),
        "by a frame": (lambda: plot_comparison(sources, sources), "by: the name of a column is needed, not DataFrame"),
        "small marks of a frame": (lambda: plot_comparison(sources, "n_source", sources), "small: the name of a column is needed, not DataFrame"),
        "counted pairs": (lambda: pair_counts(own), "frame: no column setting, n_source, pair, model_a, model_b"),
        "no figure": (lambda: in_one_column(None), "figure: a Matplotlib figure is needed, not NoneType"),
        "unfinished": (lambda: finish_figure(None, []), "figure: a Matplotlib figure is needed, not NoneType"),
        "two losses": (lambda: plot_paths({"a": curve(), "b": curve(loss_name="mse")}), "curves: curves of one loss are needed"),
        "split": (lambda: plot_paths(curve(), split="val"), "split: 'val' is not known (accepted: test, train)"),
        "metric": (lambda: plot_paths(curve(), metric="acuracy"), "metric: 'acuracy' is not known; did you mean 'accuracy'?"),
        "pair": (lambda: plot_paths(pd.concat([paths.assign(pair=kind) for kind in ("star-source", "star-held-out")])),
                 "pair: 'star-held-out' is not known; did you mean"),
        "pair of sources": (lambda: plot_source_count(sources.assign(pair="mine")), "pair: 'mine' is not known"),
        "columns": (lambda: plot_paths(paths.drop(columns=["t", "split"])), "frame: no column t, split (there are: "),
        "empty": (lambda: plot_paths(paths[:0]), "frame: it has no rows"),
        "no paths": (lambda: plot_paths(paths[paths.t.isna()].assign(metric="loss")), "t: no row is of a point of a path"),
        "nan": (lambda: plot_paths(paths.assign(value=np.nan)), "frame: no row has a finite value and split 'train'"),
        "no barriers": (lambda: plot_source_count(paths[paths.metric == "loss"]), "frame: rows of metric loss_barrier are needed; it has: loss"),
        "no losses": (lambda: plot_paths(own.assign(metric="accuracy")), "frame: rows of metric loss are needed; it has: accuracy"),
        "no pairs with a star": (lambda: plot_samplings(saved("appendix_t_sampling").assign(pair="star-source")), "frame: rows of pair star-heldout are needed; it has: star-source"),
        "points of another split": (lambda: plot_trend(saved("fig2_width_depth").assign(split="test")), "frame: rows of split train are needed; it has: test"),
        "a plane of another split": (lambda: plot_plane(saved("fig0_plane").assign(split="test")), "frame: rows of split train are needed; it has: test"),
        "no such pairs": (lambda: plot_comparison(sources[sources["pair"] == "star-source"], "n_source"), "frame: rows of pair regular-regular or star-heldout are needed; it has: star-source"),
        "no sources": (lambda: plot_source_count(sources.assign(n_source=None)), "n_source: no row has a number"),
        "averages": (lambda: plot_averages(saved("fig4_bma").assign(metric="f1")), "frame: rows of metric auroc_maxprob or auroc_entropy or ece or nll are needed; it has: f1"),
        "methods": (lambda: plot_averages(saved("fig4_bma").assign(method="mine")), "method: none of 'mine' is known"),
        "tables": (lambda: plot_reliability({"mine": table_of_bins().drop(columns="count")}), "tables: 'mine' is without count; a table of bins is needed, as made by reliability(example_scores(probs, labels))"),
        "probabilities": (lambda: plot_reliability({"a": torch.ones(2, 2)}), "tables: 'a' is Tensor, not a data frame; a table of bins is needed"),
        "a table without rows": (lambda: plot_reliability({"a": table_of_bins()[:0]}), "tables: 'a' is without rows; a table of bins"),
        "a list of tables": (lambda: plot_reliability([table_of_bins()]), "tables: a dict of them by name, or a data frame is needed, not list"),
        "no accuracies of bins": (lambda: plot_reliability(saved("fig4_bma").query("metric != 'bin_accuracy'")), "frame: rows of metric bin_accuracy are needed; it has: bin_confidence, bin_count"),
        "no summary": (lambda: plot_fusion([1]), "summary: a pandas data frame is needed, not list"),
        "no frame of points": (lambda: plot_trend([1]), "points: a pandas data frame is needed, not list"),
        "no widths at all": (lambda: plot_widths([1]), "points: a pandas data frame is needed, not list"),
        "no rows of pairs": (lambda: plot_star_pairs([1]), "rows: a pandas data frame is needed, not list"),
        "no rows of candidates": (lambda: plot_candidates([1]), "rows: a pandas data frame is needed, not list"),
        "no ratios": (lambda: plot_ways([1]), "ratios: a pandas data frame is needed, not list"),
        "no flag": (lambda: plot_paths(curve(), legend="no"), "legend: True or False is needed, not 'no'"),
        "too low": (lambda: plot_paths({"a": curve(), "b": curve()}, figsize=(3, 2.1)), "figsize: 3 x 2.1 inches are too low for these panels and their labels; about 2.6 inches of height are needed"),
        "too narrow": (lambda: plot_paths(curve(), figsize=(1, 9)), "figsize: 1 x 9 inches are too narrow for these panels and their labels"),
        "no tables": (lambda: plot_reliability({}), "tables: at least one is needed"),
        "predictors": (lambda: plot_fusion(pd.DataFrame(columns=["method"])), "frame: no column n_source, mean, low, high"),
        "points": (lambda: plot_trend(pd.DataFrame({"setting": ["a"], "star": [1.0]})), "frame: no column regular"),
        "no points": (lambda: plot_trend({}), "points: at least one panel is needed"),
        "no widths": (lambda: plot_widths(barrier_points(saved("appendix_relationship"))), "frame: no column width"),
        "no samplings": (lambda: plot_samplings(paths), "frame: no column t_sampling"),
        "by": (lambda: plot_comparison(sources, "how"), "frame: no column how"),
        "kinds": (lambda: plot_comparison(sources, "n_source", kinds=("star",)), "kinds: 'star' is not known"),
        "plane": (lambda: plot_plane(plane), "points: coordinates (rows, columns, 2)"),
        "no plane": (lambda: plot_plane(points), "plane: a Plane or a data frame is needed, not ndarray"),
        "points of a plane": (lambda: plot_plane(plane, points[0], losses), "points: coordinates (rows, columns, 2)"),
        "losses": (lambda: plot_plane(plane, points, losses[0]), "losses: one for each point, (7, 7), is needed"),
        "names": (lambda: plot_plane(plane, points, losses, names="ABB"), "names: three different ones are needed"),
        "diverged": (lambda: plot_plane(plane, points, losses * np.nan), "frame: no row has a finite value"),
        "one point": (lambda: plot_plane(plane, points[:1], losses[:1]), "frame: losses at two x and two y at least"),
        "twice": (lambda: plot_plane(pd.concat([saved("fig0_plane")] * 2)), "frame: a point of the plane occurs twice"),
    }


@pytest.mark.parametrize("case", refused())
def test_what_no_figure_can_draw_is_refused(case):
    draw, message = refused()[case]
    with pytest.raises(ValueError) as error: draw()
    assert str(error.value).startswith(message) and "\n" not in str(error.value)
    assert not plt.get_fignums()
