"""The documentation as a site: what stands in the Markdown, with links that lead somewhere, and no mistake unnoticed."""

import re
from collections import Counter
from html.parser import HTMLParser
from urllib.parse import unquote, urlsplit

import pytest
from markdown_it import MarkdownIt

from tests.documents import DOCUMENTS, ROOT, copy_project, script

PAGES = [*DOCUMENTS, ROOT / "CHANGELOG.md", ROOT / "benchmarks" / "README.md"]
SOURCES = (
    ".ci",
    "docs",
    "suites",
    "benchmarks",
    "pytest_autotune",
    "README.md",
    "CHANGELOG.md",
    "LICENSE",
    "mkdocs.yml",
)
STRUCTURE = {*("h1", "h2", "h3", "h4", "p", "ul", "ol", "li", "table", "tr", "th", "td", "pre", "a", "strong", "em")}


class Page(HTMLParser):
    """The elements, links and words of a piece of HTML."""

    def __init__(self, html):
        super().__init__()
        self.elements, self.links, self.loaded, self.words = Counter(), [], [], []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        named = dict(attrs)
        if tag in STRUCTURE:
            self.elements[tag] += 1
        if tag == "a" and named.get("href"):
            self.links.append(named["href"])
        if tag in ("script", "link", "img") and (address := named.get("src") or named.get("href")):
            self.loaded.append(address)

    def handle_data(self, data):
        self.words += data.split()


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    directory = tmp_path_factory.mktemp("site")
    built = script("docs", directory)
    assert built.returncode == 0, built.stdout + built.stderr
    return directory


def rendered(site, path):
    relative = path.relative_to(ROOT)
    page = relative.parent if path.name == "README.md" else relative.with_suffix("")
    return (site / page / "index.html").read_text()


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_page_shows_what_the_repository_shows(site, path):
    """Both are Markdown, but not of the same dialect: a list or a table of one can be a paragraph of the other."""
    shown = Page(re.search(r'role="main">(.*)<footer', rendered(site, path), re.DOTALL)[1])
    repository = Page(MarkdownIt("commonmark").enable("table").render(path.read_text()))
    assert shown.elements == repository.elements
    assert "".join(shown.words) == "".join(repository.words)


def test_every_link_of_the_site_leads_into_it(site):
    broken, links = [], 0
    for page in site.rglob("*.html"):
        read = Page(page.read_text())
        for address in (*read.links, *read.loaded):
            split = urlsplit(address)
            if split.scheme or page.name == "404.html":
                continue
            links += 1
            target = page.parent / unquote(split.path) if split.path else page
            target = target / "index.html" if target.is_dir() else target
            found = target.is_file() and (
                split.fragment in ("", "search", "keyboard") or f'id="{split.fragment}"' in target.read_text()
            )
            broken += [] if found else [f"{page.relative_to(site)}: {address}"]
    assert broken == []
    assert links > 100


def test_no_page_loads_anything_from_elsewhere(site):
    pages = [Page(page.read_text()) for page in site.rglob("*.html")]
    assert [address for page in pages for address in page.loaded if urlsplit(address).netloc] == []
    assert all(page.loaded for page in pages)


@pytest.mark.parametrize(
    ("page", "text", "told"),
    [
        ("docs/suites.md", "[gone](nowhere.md)", "nowhere.md"),
        ("docs/suites.md", "[gone](../suites/nowhere.yaml)", "nowhere.yaml"),
        ("docs/suites.md", "[gone](metrics.md#nowhere)", "#nowhere"),
        ("README.md", "[gone](docs/nowhere.md)", "docs/nowhere.md"),
        ("README.md", "[gone](/docs/suites.md)", "/docs/suites.md"),
        ("docs/unlisted.md", "# In no navigation", "docs/unlisted.md"),
    ],
    ids=["page", "file", "anchor", "front page", "absolute link", "navigation"],
)
def test_a_mistake_fails_the_build(tmp_path, page, text, told):
    root = copy_project(tmp_path, *SOURCES)
    with (root / page).open("a") as file:
        file.write(f"\n{text}\n")
    built = script("docs", tmp_path / "site", root=root)
    assert built.returncode != 0
    assert told in built.stdout + built.stderr
