"""How the documents are written: short, in cells that a reader takes in once, with links that lead
somewhere.

`make test` runs it. Nothing leaves the machine.
"""

import pathlib
import re

import pytest
from running import ROOT

README_LINES = 160
CELL_WORDS = 25
PAGES = [ROOT / name for name in ["README.md", "CHANGELOG.md", "CONTRIBUTING.md", "RELEASE.md", "SECURITY.md"]]
PAGES += sorted(ROOT.glob("docs/**/*.md"))


def name(path: pathlib.Path) -> str:
    return str(path.relative_to(ROOT))


def prose(path: pathlib.Path) -> list[str]:
    """The lines of a page that are not code."""
    return re.sub(r"^ *```.*?^ *```$", "", path.read_text(), flags=re.MULTILINE | re.DOTALL).splitlines()


def cells(path: pathlib.Path) -> list[str]:
    """The cells of a page's tables. A bar within a cell's code is written `\\|`."""
    rows = [line.strip() for line in prose(path) if line.strip().startswith("|")]
    return [cell.strip() for row in rows for cell in re.split(r"(?<!\\)\|", row)[1:-1]]


def words(cell: str) -> int:
    """What a reader reads: a link is its text."""
    return len(re.sub(r"\]\([^)]*\)", "]", cell).split())


def anchors(path: pathlib.Path) -> set[str]:
    """The anchors that GitHub gives the headings of a page."""
    found: set[str] = set()
    for line in prose(path):
        if heading := re.match(r"#+ (.+)$", line):
            text = re.sub(r"\]\([^)]*\)", "]", heading[1]).lower()
            anchor = re.sub(r"[^\w\- ]", "", text).replace(" ", "-")
            number = sum(known == anchor or re.fullmatch(rf"{re.escape(anchor)}-\d+", known) is not None
                         for known in found)
            found.add(f"{anchor}-{number}" if number else anchor)
    return found


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text().splitlines()) <= README_LINES


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_no_table_cell_is_too_long(page):
    long = [f"{words(cell)} words: {cell}" for cell in cells(page) if words(cell) > CELL_WORDS]
    assert not long, "\n".join(long)


def test_tables_are_found():
    assert sum(len(cells(page)) for page in PAGES) > 500


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_link_resolves(page):
    broken = []
    for link in re.findall(r"\]\(([^)\s]+)\)", "\n".join(prose(page))):
        if re.match(r"[a-z]+:", link):
            continue
        file, _, anchor = link.partition("#")
        target = (page.parent / file).resolve() if file else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(link)
    assert not broken, broken


def test_every_page_is_reachable_from_the_readme():
    seen, open_pages = set(), [ROOT / "README.md"]
    while open_pages:
        page = open_pages.pop()
        seen.add(page)
        for link in re.findall(r"\]\(([^)\s#]+\.md)[^)]*\)", "\n".join(prose(page))):
            target = (page.parent / link).resolve()
            if target.is_file() and target not in seen:
                open_pages.append(target)
    assert set(PAGES) <= seen, [name(page) for page in set(PAGES) - seen]


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_file_named_on_a_page_exists(page):
    paths = re.findall(r"`((?:src|tests|deploy|proto|clients|scripts|fuzz)/[^`\s]+)`", page.read_text())
    # Files that the reader creates, by page.
    made = (
        "deploy/production",
        "fuzz/corpus",
        "fuzz/artifacts",
        "src/providers/acme",
        "src/sandbox/acme",
        "tests/fixtures/acme",
    )
    gone = [path for path in paths if not path.startswith(made)
            and not list(ROOT.glob(re.sub(r"<\w+>|TARGET", "*", path).rstrip("/")))]
    assert not gone, gone


def test_the_glossary_states_where_its_words_are_defined():
    page = (ROOT / "docs/architecture.md").read_text()
    glossary = page.split("## Glossary\n")[1]
    rows = re.findall(r"^\| (`.+?) \| .+ \| (`.+`) \|$", glossary, re.MULTILINE)
    assert len(rows) == 10
    for named, places in rows:
        files = [ROOT / path for path in re.findall(r"`(\S+)`", places)]
        for word in re.findall(r"`(\w+)`", named):
            definition = rf"\b(?:struct|enum|trait|type) {word}\b"
            assert any(file.stem == word or re.search(definition, file.read_text()) for file in files), word
