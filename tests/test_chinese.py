"""The pages in Chinese say what the English ones say, as far as a program can see: code, numbers, links, headings."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import nbformat
import pytest

from scripts import notebooks, readme
from tests import machine

CHINESE = ".zh-CN"
PAIRS = [
    (path.with_name(path.name.replace(CHINESE, "")), path)
    for folder in (machine.ROOT, machine.ROOT / "notebooks", machine.ROOT / "docs")
    for path in sorted(folder.glob(f"*{CHINESE}.*"))
]
FENCED = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)]+)\)")
WORDS = dict(zip("three four five six seven eight ninth ten".split(), "三四五六七八九十", strict=True))
NO_HAN = re.compile(r"[^\u4e00-\u9fff]*")


def text_of(path: Path) -> str:
    """A page as it is; of a notebook its prose, and its code in blocks."""
    if path.suffix == ".md":
        return path.read_text(encoding="utf-8")
    cells = nbformat.read(path, as_version=4).cells
    return "\n\n".join(f"```python\n{cell.source}\n```" if cell.cell_type == "code" else cell.source for cell in cells)


def prose(page: str) -> str:
    """`page` without its blocks of code."""
    return FENCED.sub("", page)


def blocks(page: str) -> list[str]:
    """The blocks of code, in order, with the comments that say what their output is of."""
    return [*FENCED.findall(page), *re.findall(r"<!-- .*? -->", page)]


def code(page: str) -> Counter[str]:
    """The pieces of code in the sentences; a sentence may have them in another order."""
    return Counter(re.findall(r"`([^`\n]+)`", prose(page)))


def sentences(page: str) -> str:
    """The prose without code, comments, and the targets of links."""
    return LINK.sub("]", re.sub(r"`[^`\n]+`|<!--.*?-->", "", prose(page)))


def numbers(page: str) -> Counter[str]:
    """The numbers in the sentences. Releases and issues are among them."""
    return Counter(re.findall(r"\d+(?:[.,]\d+)*(?:\.post\d+)?", sentences(page)))


def counts(page: str) -> Counter[str]:
    """The numbers from three to ten that are words, as Chinese ones."""
    words = re.findall(rf"\b(?:{'|'.join(WORDS)})\b|[{''.join(WORDS.values())}]", sentences(page).lower())
    return Counter(WORDS.get(word, word) for word in words)


def links(page: str) -> Counter[str]:
    """Where the links lead; a page in Chinese counts as the English one, and any heading of the page itself as one."""
    return Counter(re.sub(r"^#.*", "#", target.replace(CHINESE, "")) for target in LINK.findall(prose(page)))


def headings(page: str) -> list[str]:
    """How deep the headings are, in order."""
    return re.findall(r"^(#+) ", prose(page), re.MULTILINE)


def tables(page: str) -> list[int]:
    """How many cells each row of a table has."""
    return [row.count(" |") for row in re.findall(r"^\|.*$", prose(page), re.MULTILINE)]


def steps(page: str) -> list[str]:
    """The marks of the points in lists."""
    return re.findall(r"^(\d+\.|\*) ", prose(page), re.MULTILINE)


VIEWS = [blocks, code, numbers, counts, links, headings, tables, steps]


def test_readme_the_onboarding_pack_and_the_first_notebook_are_there():
    begun = {"README.md", "notebooks/README.md", "notebooks/00_start_here.ipynb"}
    assert begun <= {page.relative_to(machine.ROOT).as_posix() for page, _ in PAIRS}


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("pair", PAIRS, ids=lambda pair: str(pair[1].relative_to(machine.ROOT)))
def test_both_have_the_same(view, pair):
    english, chinese = (view(text_of(page)) for page in pair)
    if isinstance(english, Counter):
        assert (english - chinese, chinese - english) == (Counter(), Counter())
    assert english == chinese


@pytest.mark.parametrize("pair", PAIRS, ids=lambda pair: str(pair[1].relative_to(machine.ROOT)))
def test_each_leads_to_the_other_at_its_top(pair):
    for page, other in (pair, pair[::-1]):
        top = text_of(page).splitlines()[:4]
        assert any(f"]({other.name})" in line for line in top), page


@pytest.mark.parametrize("page", [chinese for _, chinese in PAIRS], ids=lambda page: page.name)
def test_a_chinese_page_leads_on_in_chinese(page):
    """Below its switch it links a Chinese page wherever there is one, files that are there, and its own headings."""
    text = text_of(page)
    own = {
        re.sub(r"[^\w\- ]", "", head).strip().lower().replace(" ", "-") for head in re.findall(r"^#+ (.+)$", text, re.M)
    }
    for target in LINK.findall(prose("\n".join(text.splitlines()[4:]))):
        if target.startswith("#"):
            assert target[1:] in own, target
        elif not target.startswith("https:"):
            file = page.parent / target.partition("#")[0]
            assert file.exists(), target
            assert not file.with_name(f"{file.stem}{CHINESE}{file.suffix}").exists(), target


@pytest.mark.parametrize("page", [chinese for _, chinese in PAIRS], ids=lambda page: page.name)
def test_what_is_not_code_is_chinese(page):
    """No paragraph, row or point that is longer than a name was left in English."""
    for line in prose(re.sub(r"<!--.*?-->|`[^`\n]+`|\]\([^)]+\)", "", text_of(page))).splitlines():
        assert len(re.findall(r"[A-Za-z]{3,}", line)) < 7 or not NO_HAN.fullmatch(line), line


def _stale(text: str) -> str:
    return text.replace("crashed, as promised", "survived, as promised")


@pytest.mark.parametrize(
    ("view", "change"),
    [
        (blocks, _stale),
        (blocks, lambda text: text.replace("output of python fixed/crash.py", "output of python repro/crash.py")),
        (code, lambda text: text.replace("`make lab`", "`make lap`")),
        (numbers, lambda text: text.replace("0.5.12.post1", "0.5.12")),
        (numbers, lambda text: text.replace("5.3 GB", "5,3 GB")),
        (counts, lambda text: text.replace("七个变异体", "八个变异体")),
        (links, lambda text: text.replace("(docs/proofs.md)", "(docs/lab.md)")),
        (headings, lambda text: text.replace("\n## ", "\n### ", 1)),
        (tables, lambda text: text.replace("| [00 ", "[00 ")),
        (steps, lambda text: text.replace("\n10. ", "\n")),
    ],
)
def test_a_change_on_one_side_is_noticed(view: Callable, change: Callable[[str], str]):
    text = (machine.ROOT / "README.zh-CN.md").read_text(encoding="utf-8")
    assert change(text) != text
    assert view(change(text)) != view(text)


@pytest.mark.parametrize("pair", [pair for pair in PAIRS if pair[0].suffix == ".ipynb"], ids=lambda pair: pair[1].name)
def test_a_chinese_notebook_keeps_what_the_english_one_printed(pair):
    english, chinese = (notebooks.compared(nbformat.read(path, as_version=4)) for path in pair)
    assert chinese == english


def test_one_run_of_a_command_is_for_both_languages(monkeypatch, tmp_path):
    asked = []
    readme.output_of.cache_clear()
    monkeypatch.setattr(readme.subprocess, "run", lambda words, **_: asked.append(words) or _Said())
    pages = [tmp_path / "README.md", tmp_path / "README.zh-CN.md"]
    for page in pages:
        page.write_text("<!-- output of python x.py -->\n```text\n```\n<!-- end -->\n", encoding="utf-8")
    monkeypatch.setattr(readme, "pages", lambda: pages)
    monkeypatch.setattr("sys.argv", ["readme"])
    readme.main()
    readme.output_of.cache_clear()
    assert len(asked) == 1
    assert len({page.read_text(encoding="utf-8") for page in pages}) == 1
    assert "run 1" in pages[0].read_text(encoding="utf-8")


class _Said:
    """What a run of a command has printed."""

    stdout = "run 1\n"


def test_readme_in_chinese_is_among_the_pages_that_are_refreshed():
    assert {Path("README.md"), Path("README.zh-CN.md")} <= {page.relative_to(machine.ROOT) for page in readme.pages()}
