"""The site: every link and image leads somewhere, on a telephone too, and search needs no network."""
import os
import re
import subprocess
import sys
from urllib.parse import unquote, urlsplit

import pytest
from bs4 import BeautifulSoup
from conftest import ROOT, made_once, needs_browser, said_by_a_browser

import starlight_nb

SHOWN = ["index.html", "nbs/12_barriers.html", "api/matching.html", "reports/digits/index.html"]


@pytest.fixture(scope="session")
def site(tmp_path_factory):
    "The folder of the site, made as `make site` makes it."
    def make(folder):
        command = [sys.executable, "-m", "mkdocs", "build", "--quiet", "--strict", "--site-dir", folder]
        quiet = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
        built = subprocess.run(command, cwd=ROOT, env=quiet, capture_output=True, text=True)
        assert built.returncode == 0, (built.stdout + built.stderr)[-3000:]

    return made_once(tmp_path_factory, "site", make)


@pytest.fixture(scope="session")
def pages(site):
    paths = (path for path in site.rglob("*.html") if not path.name.startswith("."))
    return {path: BeautifulSoup(path.read_text(), "html.parser") for path in paths}


def addresses(page):
    "Every address on a page: the element's name, and the address."
    for element in page.find_all(["a", "img", "link", "script", "source"]):
        address = element.get("href") or element.get("src") or element.get("srcset")
        if address:
            yield element.name, urlsplit(address)


def anchors(page):
    return {element["id"] for element in page.find_all(id=True)}


def broken(pages):
    "Addresses within the site that lead nowhere."
    ids = {path.resolve(): anchors(page) for path, page in pages.items()}
    for path, page in pages.items():
        for _, address in addresses(page):
            if address.scheme or address.netloc:
                continue
            target = (path.parent / unquote(address.path)).resolve() if address.path else path
            known = ids.get(target)
            anchor = unquote(address.fragment)
            if not target.is_file() or (known is not None and anchor and anchor not in known):
                yield str(path), address.geturl()


def test_no_link_and_no_image_is_broken(pages):
    assert list(broken(pages)) == []


def test_a_broken_link_is_noticed(tmp_path):
    texts = {"a.html": "<a href='b.html#here'>b</a><img src='no.png'>", "b.html": "<p id='there'>"}
    pages = {tmp_path / name: BeautifulSoup(text, "html.parser") for name, text in texts.items()}
    for path, page in pages.items():
        path.write_text(str(page))
    assert [address for _, address in broken(pages)] == ["b.html#here", "no.png"]


def test_pages_load_nothing_from_elsewhere(pages):
    outside = [
        (path, address.geturl())
        for path, page in pages.items()
        for name, address in addresses(page)
        if name != "a" and address.scheme not in ("", "data")
    ]
    assert outside == []


def test_every_notebook_has_a_page(site):
    for folder in ("", "experiments", "howto"):
        for notebook in (ROOT / "nbs" / folder).glob("*.ipynb"):
            if notebook.stem != "index":
                page = site / "nbs" / folder / f"{notebook.stem}.html"
                assert page.exists(), notebook


def test_the_reference_has_every_public_name(site):
    text = "".join(path.read_text() for path in (site / "api").glob("*.html"))
    named = set(re.findall(r'id="starlight_nb\.[\w.]*?(\w+)"', text))
    values = {name: getattr(starlight_nb, name) for name in starlight_nb.__all__}
    assert {name for name, value in values.items() if callable(value)} <= named
    assert "plot_paths" in named and "match_sinkhorn" in named


def test_formulas_are_shown_without_scripts(pages, site):
    page = pages[site / "nbs/12_barriers.html"]
    assert page.find("math") and "$" not in page.find(class_="jp-RenderedMarkdown").get_text()
    assert pages[site / "docs/chapters.html"].find("math")


SAY = """<script>addEventListener('load', () => {
  const root = document.documentElement, query = document.querySelector('input[name=query]');
  const wide = root.scrollWidth - root.clientWidth;
  query.value = 'straight-through'; query.focus(); query.dispatchEvent(new Event('keyup'));
  const found = () => document.querySelector('.md-search-result__meta').textContent.trim();
  let waited = 0;
  const say = () => found().match(/^[0-9]+ matching/) || ++waited > 80 ? parent.postMessage(
    JSON.stringify({images: [...document.images].filter(i => !i.naturalWidth).map(i => i.src),
      wide: wide, found: found(),
      requests: performance.getEntriesByType('resource').map(r => new URL(r.name).protocol)}), '*')
    : setTimeout(say, 100);
  say(); })</script></body>"""


@needs_browser
@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("name", SHOWN)
def test_a_browser_shows_a_page_and_searches(site, name, width):
    said = said_by_a_browser(site / name, SAY, width)
    assert said["images"] == [] and said["wide"] <= 0
    assert set(said["requests"]) <= {"file:", "data:", "blob:"}
    assert re.match(r"[1-9]\d* matching", said["found"]), said["found"]
