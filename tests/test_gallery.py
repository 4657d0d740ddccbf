"""The gallery: every image loads, every link leads somewhere, and what it says of the data is so; in a real browser where there is one."""
import html.parser
import json
import re
import shutil
import subprocess
from pathlib import Path

import pandas as pd
import pytest
from conftest import ROOT

from starlight_nb.paper.catalogue import experiment_names, reading_order
from starlight_nb.runtime.files import write_atomic
from starlight_nb.paper.catalogue import experiment_title
from starlight_nb.paper.claims import claims
from starlight_nb.paper.gallery import write_gallery
from starlight_nb.paper.report import save_figure
from starlight_nb.plots import plot_source_count
from starlight_nb.paper.published import comparison_table, save_comparison
from starlight_nb.paper.experiment import Experiment
from starlight_nb.paper.report import save_data, save_finding, save_table
from starlight_nb.paper.study import COLUMNS

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
needs_browser = pytest.mark.skipif(BROWSER is None, reason="no chromium; apt-get install chromium")


def barriers(setting, regular, star, stars=2, n_source=4):
    "Barriers between three held-outs, and of stars to them, with so much in the mean."
    about = dict(setting=setting, architecture="mlp", dataset="digits", split="train", metric="loss_barrier", t=None)
    pairs = [(None, None, "regular-regular", f"heldout-{a}", f"heldout-{b}", regular) for a, b in ((0, 1), (0, 2), (1, 2))]
    pairs += [(n_source, seed, "star-heldout", f"star-n{n_source}-s{seed}", f"heldout-{b}", star) for seed in range(stars) for b in range(3)]
    pairs += [(n_source, seed, "star-source", f"star-n{n_source}-s{seed}", f"source-{b}", star / 2) for seed in range(stars) for b in range(3)]
    rows = [about | dict(n_source=n, star_seed=seed, pair=pair, model_a=a, model_b=b, value=value * (0.9 + 0.1 * (i % 3))) for i, (n, seed, pair, a, b, value) in enumerate(pairs)]
    return pd.concat([pd.DataFrame(rows, columns=COLUMNS), pd.DataFrame(rows, columns=COLUMNS).assign(split="test")])


def make_report(folder, monkeypatch, *frames):
    "What Fig. 1's notebook leaves, without its trainings, and the gallery."
    monkeypatch.setenv("STARLIGHT_OUT", str(folder))
    experiment = Experiment("fig1_source_count", "smoke", settings=None, source_counts=None, stars=None, heldouts=None, points=None)
    data = save_data(experiment, pd.concat(frames, ignore_index=True))
    save_figure(experiment, plot_source_count(data), "Barriers <of stars>. In nats.")
    save_table(experiment, data.head(3)[["setting", "pair", "value"]])
    save_comparison(experiment, comparison_table(ratios={"part": pd.DataFrame([dict(
        setting="A", n_source=4, ratio=0.5, low=0.4, high=0.6, lowest=0.2, highest=0.3, rows=2, fewest=5, most=50, overlap=False)])}))
    save_finding(experiment, "A & B: 3 < 4.")
    write_atomic(folder / "notebooks/fig1_source_count.ipynb", "{}")
    write_atomic(folder / "evidence.json", json.dumps(dict(machine="a machine of its own", wall_seconds=dict(fig1_source_count=1234.5))))
    write_gallery(folder, "A small report")
    return folder


@pytest.fixture
def small_report(tmp_path, monkeypatch):
    return make_report(tmp_path / "report", monkeypatch, barriers("A", 0.5, 0.1), barriers("B", 0.5, 0.6), barriers("C", 0.02, 0.02))


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
    return [(form, link) for form in links for link in links[form]
            if not (link[1:] in places[form] if link.startswith("#") else (report / link).is_file())]


def committed_reports():
    return [path.parent for path in sorted((ROOT / "reports").glob("*/index.html"))]


def test_every_link_leads_somewhere(small_report):
    assert dead_links(small_report) == []
    links = Page((small_report / "index.html").read_text()).links
    assert {"#fig1_source_count", "evidence.json", "figures/fig1_source_count.svg", "tables/fig1_source_count.tex", "tables/fig1_source_count_published.csv",
            "notebooks/fig1_source_count.ipynb", "data/fig1_source_count.json"} <= set(links)
    (small_report / "tables/fig1_source_count.tex").unlink()
    assert dead_links(small_report) == [(form, "tables/fig1_source_count.tex") for form in ("index.html", "README.md")]


@pytest.mark.parametrize("report", committed_reports(), ids=lambda path: path.name)
def test_the_links_of_committed_reports_lead_somewhere(report):
    assert dead_links(report) == []


def test_the_gallery_of_a_run_is_whole(smoke_report):
    report = smoke_report / "report"
    assert dead_links(report) == []
    page, text = (report / "index.html").read_text(), (report / "README.md").read_text()
    positions = [page.index(f"<h2 id='{name}'>") for name in experiment_names()]
    assert positions == sorted(positions) and [*map(text.index, (f'<a id="{name}">' for name in experiment_names()))]
    for name in experiment_names():
        summary = json.loads((report / f"data/{name}.json").read_text())
        assert summary["finding"][:60] in text and all(figure["caption"] in text for figure in summary["figures"])
        assert all(re.search(r"\d", figure["caption"]) or figure["file"].endswith("_test.png") for figure in summary["figures"]), "a caption says how many"


BROWSED = """<script>addEventListener('load', () => {
  const said = document.createElement('pre'), root = document.documentElement; said.id = 'said';
  said.textContent = JSON.stringify({images: [...document.images].map(i => [i.getAttribute('src'), i.naturalWidth]),
    dead: [...document.querySelectorAll("a[href^='#']")].map(a => a.hash.slice(1)).filter(id => !document.getElementById(id)),
    wide: root.scrollWidth - root.clientWidth, requests: performance.getEntriesByType('resource').map(r => new URL(r.name).protocol)});
  document.body.append(said); })</script></body>"""


def browse(report, folder, width):
    "What a browser makes of a copy of the page, to which a script is added that says it."
    shutil.copytree(report, folder)
    page = folder / "index.html"
    page.write_text(page.read_text().replace("</body>", BROWSED))
    command = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", f"--user-data-dir={folder}.profile", f"--window-size={width},900",
               "--virtual-time-budget=10000", "--dump-dom", page.as_uri()]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120)
    said = re.search(r'<pre id="said">(.*?)</pre>', result.stdout, re.S)
    assert said, result.stdout[-500:] + result.stderr[-500:]
    return json.loads(html.unescape(said[1]))


@needs_browser
@pytest.mark.parametrize("width", [500, 1280])  # 500 is as narrow as its windows get
def test_a_browser_shows_every_image(small_report, tmp_path, width):
    said = browse(small_report, tmp_path / "copy", width)
    assert [src for src, _ in said["images"]] == ["figures/fig1_source_count.png"] and all(natural > 0 for _, natural in said["images"])
    assert said["dead"] == [] and said["wide"] <= 0 and set(said["requests"]) <= {"file:"}


@needs_browser
def test_a_browser_tells_what_is_missing(small_report, tmp_path):
    "Otherwise the test above could not fail."
    (small_report / "figures/fig1_source_count.png").write_bytes(b"no picture")
    page = small_report / "index.html"
    page.write_text(page.read_text().replace("<h2 id='fig1_source_count'>", "<h2>").replace("<h3>", "<div style='width: 3000px'>.</div><h3>"))
    said = browse(small_report, tmp_path / "copy", 500)
    assert said["images"] == [["figures/fig1_source_count.png", 0]] and said["dead"] == ["fig1_source_count"] and said["wide"] > 1000


@needs_browser
@pytest.mark.parametrize("report", committed_reports(), ids=lambda path: path.name)
def test_a_browser_shows_every_image_of_committed_reports(report, tmp_path):
    said = browse(report, tmp_path / "copy", 500)
    assert said["images"] and all(natural > 0 for _, natural in said["images"])
    assert said["dead"] == [] and said["wide"] <= 0 and set(said["requests"]) <= {"file:"}


def test_what_holds_is_counted_in_the_data(small_report):
    held = claims(small_report)
    assert held in (small_report / "README.md").read_text()
    assert "in 1 of 3 settings (0.20 times it)." in held and "**Not so in B: 1.20 [" in held and "times 0.500 nats.**" in held
    assert "Regular solutions are connected anyway in C: 1.00 [" in held and "**Not so in C" not in held
    assert "**The star – held-out barrier is near zero, below 0.05 nats, in 1 of 3 (0.02 to 0.60 nats).**" in held


def test_a_setting_counts_once_with_its_most_sources(tmp_path, monkeypatch):
    frames = barriers("A", 0.5, 0.6, n_source=2), barriers("A", 0.5, 0.02, n_source=16)
    held = claims(make_report(tmp_path / "report", monkeypatch, *frames))
    assert "in 1 of 1 settings (0.04 times it)." in held and held.endswith(" The star – held-out barrier is near zero, below 0.05 nats, in 1 of 1 (0.02 nats).")


def test_a_setting_without_regular_pairs_is_left_out(tmp_path, monkeypatch):
    report = make_report(tmp_path / "report", monkeypatch, barriers("A", 0.5, 0.1), barriers("B", 0.5, 0.6))
    path = report / "data/fig1_source_count.csv"
    data = pd.read_csv(path)
    data[(data.setting == "A") | (data["pair"] != "regular-regular")].to_csv(path, index=False)
    assert "in 1 of 1 settings (0.20 times it)." in claims(report)
    data[data["pair"] == "star-source"].to_csv(path, index=False)
    assert claims(report) == ""


def test_nothing_in_the_gallery_varies_from_run_to_run(small_report):
    for name in ("index.html", "README.md"):
        text = (small_report / name).read_text()
        assert "a machine of its own" not in text and "1234" not in text and "evidence.json" in text
        write_gallery(small_report, "A small report")
        assert (small_report / name).read_text() == text


def test_the_page_is_escaped_and_has_alternative_texts(small_report):
    page = (small_report / "index.html").read_text()
    assert "A &amp; B: 3 &lt; 4." in page and "<of stars>" not in page
    assert [image["alt"] for image in Page(page).images] == ["Barriers <of stars>"] and "lang='en'" in page and "width=device-width" in page


def test_figures_come_first_then_tables_then_appendices():
    names = ["appendix_points", "fig0_plane", "table2_fusion", "fig4_bma", "table1_barriers", "appendix_heldouts"]
    assert sorted(names, key=reading_order) == ["fig0_plane", "fig4_bma", "table1_barriers", "table2_fusion", "appendix_heldouts", "appendix_points"]
    assert all(experiment_title(name) for name in experiment_names())
