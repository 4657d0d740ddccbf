"""The gallery: claims come first, every image loads, every link leads somewhere, no text breaks the
page; in a real browser where there is one."""

import errno
import html.parser
import json
import os
import re
import shutil
import subprocess

import pandas as pd
import pytest
from conftest import ROOT

from starlight_nb.paper import gallery
from starlight_nb.paper.catalogue import experiment_names, experiment_title, reading_order
from starlight_nb.paper.claims import paper_claims, save_claims
from starlight_nb.paper.gallery import (
    experiment_question, experiment_reading, write_gallery, write_kept_gallery)
from starlight_nb.paper.report import save_figure
from starlight_nb.plots import plot_source_count
from starlight_nb.paper.published import comparison_table, save_comparison
from starlight_nb.paper.experiment import Experiment
from starlight_nb.paper.report import save_data, save_summary, save_table
from starlight_nb.paper.study import COLUMNS
from starlight_nb.runtime.files import write_atomic

BROWSER = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
needs_browser = pytest.mark.skipif(BROWSER is None, reason="no chromium; apt-get install chromium")


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
    "Links of both forms of the gallery that lead nowhere."
    page, text = Page((report / "index.html").read_text()), (report / "README.md").read_text()
    places = {"index.html": page.places, "README.md": set(re.findall(r'<a id="(.+?)">', text))}
    links = {"index.html": page.links, "README.md": re.findall(r"\]\(([^)\s]+)\)", text)}
    return [
        (form, link)
        for form in links
        for link in links[form]
        if not (link[1:] in places[form] if link.startswith("#") else (report / link).is_file())
    ]


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
    assert dead_links(report) == []
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
FRAME = """<!doctype html><iframe src='index.html' style='width: {}px; height: 900px; border: 0'></iframe>
<script>addEventListener('message', told => {{ const said = document.createElement('pre');
  said.id = 'said'; said.textContent = told.data; document.body.append(said); }})</script>"""


def browse(report, folder, width, scheme="light"):
    """What a browser makes of a copy of the page, to which a script is added that says it.

    The page is in a frame, which may be narrower than the browser's windows get."""
    shutil.copytree(report, folder)
    page = folder / "index.html"
    page.write_text(page.read_text().replace("</body>", BROWSED))
    (folder / "frame.html").write_text(FRAME.format(width))
    command = [
        BROWSER,
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        f"--user-data-dir={folder}.profile",
        "--window-size=1400,900",
        f"--blink-settings=preferredColorScheme={['dark', 'light'].index(scheme)}",
        "--virtual-time-budget=10000",
        "--dump-dom",
        (folder / "frame.html").as_uri(),
    ]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120)
    said = re.search(r'<pre id="said">(.*?)</pre>', result.stdout, re.S)
    assert said, result.stdout[-500:] + result.stderr[-500:]
    return json.loads(html.unescape(said[1]))


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
    assert len(said["boxes"]) == 3 and (width > 500 or max(said["boxes"]) > 0)


@needs_browser
def test_a_browser_tells_what_is_missing(small_report, tmp_path):
    "Otherwise the test above could not fail."
    (small_report / "figures/fig1_source_count.png").write_bytes(b"no picture")
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
    assert len(boxes) == 3
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
    assert all(re.match(r"(Fig\. \d|Table \d|Appendix): \w", title) for title in titles)
