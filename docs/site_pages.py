"""The pages of the site, for mkdocs: the repository's files at their places, and an API reference."""
import re
from collections import defaultdict
from hashlib import sha256
from importlib import import_module
from inspect import isclass, isfunction
from itertools import groupby
from os.path import relpath
from pathlib import Path

from bs4 import BeautifulSoup
from latex2mathml.converter import convert
from markdown.extensions.toc import nest_toc_tokens, slugify, unique
from mkdocs.plugins import event_priority
from mkdocs.structure.files import File
from mkdocs.structure.toc import get_toc

import starlight_nb

ROOT = Path(__file__).parents[1]
PAGES = ("CHANGELOG.md", "CONTRIBUTING.md")
SHOWN = (  # what has a page, or is linked by one
    "README.md", *PAGES, "LICENSE", "CITATION.cff", "docs/*.md", "nbs/**/*.ipynb",
    "nbs/experiments/profiles/*.toml", "reports/verdicts.md", "reports/*/**/*.*")
PUBLIC_MODULES = ("matching", "plots")  # whose names are public although the package lacks them
# $...$ and $$...$$ in notebooks, \(...\) and \[...\] in Markdown pages
FORMULA = re.compile(r"\$\$(.+?)\$\$|\\\[(.+?)\\\]|\$([^$\n]+?)\$|\\\((.+?)\\\)", re.DOTALL)
LINK = re.compile(r"(?![a-z]+:)([^#]+)\.(ipynb|md)(?:#(.*))?$")  # to a page of the site
LONG_STYLE = 1000  # characters; a longer style is shared by all pages

styles = {}  # styles of notebooks, by file name


def on_config(config):
    "Say which tabs there are, and the pages of each in order."
    config.nav = [
        {"Home": "README.md"},
        {"Read": [{"Chapters": "docs/chapters.md"}, *chapters()]},
        {"Experiments": found("nbs/experiments/*.ipynb")},
        {"How-to": found("nbs/howto/*.ipynb")},
        {"API": [{package: f"api/{package}.md"} for package in public_names()]},
        {"Reports": [*found("reports/*/README.md"), {"Verdicts": "reports/verdicts.md"}]},
        {"More": [*found("docs/*.md"), *PAGES]},
    ]
    return config


@event_priority(100)  # before mkdocs-jupyter looks for notebooks
def on_files(files, config):
    "Put the repository's files at their paths in it, so that links between them hold."
    for page in list(files.documentation_pages()):
        files.remove(page)
    for path in sorted({path for pattern in SHOWN for path in found(pattern)}):
        # a report is a page of the site, and not a second time one of its own
        if not path.endswith("index.html"):
            files.append(File(path, str(ROOT), config.site_dir, config.use_directory_urls))
    for package, objects in public_names().items():
        text = reference(package, objects)
        files.append(File.generated(config, f"api/{package}.md", content=text))
    return files


def on_page_content(html, page, config, files):
    "Show formulas without a script, and in notebooks link pages and share styles."
    soup = BeautifulSoup(html, "html.parser")
    for prose in soup.select(".arithmatex, .jp-RenderedMarkdown"):
        for text in prose.find_all(string=FORMULA.search):
            if not text.find_parent(["code", "pre"]):
                text.replace_with(BeautifulSoup(FORMULA.sub(mathml, str(text)), "html.parser"))
    if page.file.src_uri.endswith(".ipynb"):
        page.toc = get_toc(nest_toc_tokens(list(headings(soup))))
        link_pages(soup, page.file.src_uri)
        share_styles(soup, page.file.dest_uri)
    return str(soup)


def on_post_build(config):
    "Write the styles that notebooks share; no page for what a server does not find."
    site = Path(config.site_dir)
    for name, style in styles.items():
        (site / name).write_text(style)
    (site / "404.html").unlink()


def mathml(formula):
    "A formula in LaTeX as MathML, which browsers show without a script and without the network."
    block, bracketed, line, round_bracketed = formula.groups()
    text = (block or bracketed or line or round_bracketed).strip()
    if block or bracketed:
        return f"<div class='formula'>{convert(text, display='block')}</div>"
    return convert(text)


def headings(soup):
    "The table of contents of a notebook, whose headings get anchors of their own."
    used = set()
    for heading in soup.find_all(re.compile("^h[1-3]$")):
        for link in heading.find_all("a", class_="anchor-link"):
            link.decompose()
        name = heading.get_text()
        heading["id"] = unique(slugify(name, "-"), used)
        yield {"level": int(heading.name[1]), "id": heading["id"], "name": name}


def link_pages(soup, notebook):
    "In links of a notebook, pages in place of notebooks and Markdown; no scripts from elsewhere."
    for script in soup.find_all("script", src=True) + soup.find_all("script", type=True):
        script.decompose()
    for link in soup.find_all("a", href=LINK):
        path, _, anchor = LINK.match(link["href"]).groups()
        page = re.sub(r"README$", "index", path)
        if notebook.startswith("reports/"):  # executed from nbs/experiments, where its links begin
            page = relpath(f"nbs/experiments/{page}", Path(notebook).parent)
        link["href"] = f"{page}.html" + (f"#{slugify(anchor, '-')}" if anchor else "")


def share_styles(soup, page):
    "Move the long styles of a notebook, half a megabyte, into files that all notebooks share."
    for style in soup.find_all("style"):
        text = style.get_text()
        if len(text) < LONG_STYLE:
            continue
        name = f"assets/notebooks-{sha256(text.encode()).hexdigest()[:8]}.css"
        styles[name] = text
        path = relpath(name, Path(page).parent)
        style.replace_with(soup.new_tag("link", rel="stylesheet", href=path))


def found(pattern):
    "Paths of files in the repository, in order."
    paths = [path for path in sorted(ROOT.glob(pattern)) if path.is_file()]
    return [path.relative_to(ROOT).as_posix() for path in paths]


def chapters():
    "The notebooks of the library by package, its introduction first."
    def package(path):
        return Path(path).stem.partition("_")[2].partition(".")[0]
    notebooks = [path for path in found("nbs/*.ipynb") if path != "nbs/index.ipynb"]
    return [{name: list(parts)} for name, parts in groupby(notebooks, package)]


def public_names():
    "Public functions and classes, by package."
    names = defaultdict(dict)
    modules = [import_module(f"starlight_nb.{name}") for name in PUBLIC_MODULES]
    for module in (starlight_nb, *modules):
        for name in module.__all__:
            value = getattr(module, name)
            if isclass(value) or isfunction(value):
                names[value.__module__.split(".")[1]][name] = value
    return names


def reference(package, objects):
    "The page of a package in the reference: its names, whose text mkdocstrings fills in."
    names = [f"::: {value.__module__}.{value.__qualname__}" for value in objects.values()]
    return "\n\n".join([f"# starlight_nb.{package}", *names])
