"""The documentation says what there is, and every page of it can be found."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from claude_bus import waking
from claude_bus.compat.http import recv_send
from claude_bus.errors import kinds
from claude_bus.mcp.tools import TOOLS
from docs import generate

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"


def read(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


PAGES = [
    *("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "deploy/README.md"),
    *(str(page.relative_to(ROOT)) for page in sorted(DOCS.rglob("*.md")) if "_build" not in page.parts),
]


# -- what is generated ------------------------------------------------------------------


@pytest.mark.parametrize("page", [str(page.relative_to(ROOT)) for page in generate.pages()])
def test_tables_are_those_of_the_code(page: str) -> None:
    """`python docs/generate.py` would change nothing."""
    text, wanted = generate.pages()[ROOT / page]
    assert text == wanted


def test_everything_that_is_generated_is_shown_once() -> None:
    """A tool, command, setting, error or limit that is added has its place in the reference."""
    assert sorted(generate.used()) == sorted(generate.PARTS)


@pytest.mark.parametrize(
    ("page", "names"), [("docs/reference/tools.md", [*TOOLS]), ("docs/reference/commands.md", [*generate.COMMANDS])]
)
def test_each_has_a_section_of_its_own(page: str, names: list[str]) -> None:
    assert [name for name in names if f"\n## {name}\n" not in read(page)] == []


def test_every_exit_status_is_documented() -> None:
    """Each that stands for an error."""
    said = read("docs/reference/errors.md").split("## Exit status")[1]
    assert {error.exit_status for error in kinds().values()} <= {
        int(n) for n in re.findall(r"^\| (\d+) \|", said, re.MULTILINE)
    }


def test_every_status_of_the_api_is_documented() -> None:
    """Each that an operation may refuse with; 502 is for those who ask a bus elsewhere."""
    said = read("docs/reference/api.md").split("## Refusals")[1].split("##")[0]
    statuses = {error.http_status for error in kinds().values()} - {502}
    assert [status for status in statuses if str(status) not in said] == []


def test_the_protocols_say_how_long_a_poll_is_held() -> None:
    """Within what its clients wait for."""
    said = read("docs/reference/protocols.md")
    assert f"`block=true` waits for {recv_send.HOLD:.0f} seconds" in said
    assert 30 <= recv_send.HOLD < 35


def test_the_rings_of_a_batch_are_documented() -> None:
    """With the seconds between them."""
    said = " ".join(read("docs/design/delivery.md").split())
    at_once, second, third = waking.RING_AFTER
    assert at_once == 0
    assert f"it rings again {second:.0f} s later, and a last time {third:.0f} s after that" in said


def test_every_module_has_its_place() -> None:
    """The table for those who change the code names each module and folder of it."""
    said = read("CONTRIBUTING.md")
    found = [path for path in (ROOT / "src" / "claude_bus").iterdir() if not path.name.startswith("__")]
    names = [path.stem for path in found if path.suffix == ".py" or (path / "__init__.py").exists()]
    assert [name for name in names if not re.search(rf"\b{name}\b", said)] == []


# -- pages, links, pictures ---------------------------------------------------------------


def sections(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub and the site make them."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    heads = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    """Every relative link of a page names a file of the repository, and a section that it has."""
    path = ROOT / page
    dead = []
    for link, anchor in re.findall(r"\]\((?!https?:)([^)#]*)#?([^)]*)\)", read(page)):
        target = (path.parent / link) if link else path
        if not target.exists() or (anchor and anchor not in sections(target)):
            dead.append(f"{link}#{anchor}")
    assert dead == []


@pytest.mark.parametrize("page", PAGES)
def test_files_that_are_named_are_there(page: str) -> None:
    """The tests, scripts and samples that a page mentions."""
    named = re.findall(r"`((?:tests|scripts|deploy|hooks|benchmarks)/[\w./-]+)`", read(page))
    assert [name for name in named if not (ROOT / name).exists()] == []


def test_no_page_is_orphaned() -> None:
    """The tables of contents lead from the first page to each of the others."""
    found: set[Path] = set()
    waiting = [DOCS / "index.md"]
    while waiting:
        page = waiting.pop()
        found.add(page)
        for entries in re.findall(r"```\{toctree\}\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL):
            named = [line for line in entries.splitlines() if line and not line.startswith(":")]
            waiting += {(page.parent / f"{name}.md") for name in named} - found
    assert found == {ROOT / page for page in PAGES if page.startswith("docs/")}


PICTURES = sorted((DOCS / "images").glob("*.svg"))


@pytest.mark.parametrize("picture", [picture.name for picture in PICTURES])
def test_pictures_need_nothing_from_elsewhere(picture: str) -> None:
    """No font, script or address is fetched, and no folder of the machine that made it shows."""
    drawn = (DOCS / "images" / picture).read_text(encoding="utf-8").replace('xmlns="http://www.w3.org/2000/svg"', "")
    assert [word for word in ("http", "url(&", "@font-face", "@import", "<script", "/tmp") if word in drawn] == []
    assert {address[0] for address in re.findall(r"url\((.)", drawn)} <= {"#"}


def test_every_picture_is_shown_and_described() -> None:
    """Each stands in a page, with words for those who do not see it."""
    shown = [
        (Path(name).name, words)
        for page in PAGES
        for words, name in re.findall(r"!\[([^\]]*)\]\(([^)]+\.svg)\)", read(page))
    ]
    assert {name for name, _ in shown} == {picture.name for picture in PICTURES}
    assert [name for name, words in shown if len(words.split()) < 4] == []


def test_the_readme_demonstrates_within_a_screen() -> None:
    """One sentence, then the picture and how to get it, within 30 lines."""
    head = "\n".join(read("README.md").splitlines()[:30])
    assert "docs/images/mail.svg" in head
    assert "bash install_claude_bus.sh" in head


def test_the_packages_of_the_site_are_locked() -> None:
    """Each with its hashes, from no particular index, by a command that the first lines name."""
    text = read("docs/requirements.txt")
    packages = re.findall(r"^[a-z][\w.-]*==.*$", text, re.MULTILINE)
    assert packages
    assert all(line.endswith("\\") for line in packages)
    assert "//" not in text
    assert "--generate-hashes" in text.splitlines()[1]
