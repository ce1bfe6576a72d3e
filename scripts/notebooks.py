"""Execute the notebooks, keep their outputs, and export them as a book that opens offline.

`python -m scripts.notebooks` executes every notebook from clean and writes its outputs into it.
`python -m scripts.notebooks --book FOLDER` executes them and writes HTML pages with an index.
A cell with the tag `upstream` shows sglang's own lines, so its output is not kept in the repository.
A cell with the tag `raises-exception` must raise, or the execution fails.
A cell with the tag `measured` shows times or bytes that differ from run to run. Its output is kept, but not compared.
"""

from __future__ import annotations

import copy
import functools
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from nbformat import NotebookNode

from repro.lab.refused import Refused
from repro.lab.teaching import transcript
from repro.lab.terminal import OneLineParser, command

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "notebooks"
CHINESE = ".zh-CN"  # in the name of a notebook
CELL_LIMIT = 300  # seconds
BOOK_STYLE = """
<style>
body {max-width: 60rem; margin: 0 auto !important; padding: 0 1rem}
img {max-width: 100%; height: auto}
pre, .jp-OutputArea-output pre {overflow-x: auto; white-space: pre; word-break: normal}
.jp-OutputArea-child, .jp-OutputArea-output {display: block; overflow-x: auto}
:root {--jp-mirror-editor-operator-color: #8a1fd1; --jp-mirror-editor-number-color: #007a00;
  --jp-mirror-editor-comment-color: #336b6b}
@media (max-width: 40rem) {
  .jp-InputPrompt, .jp-OutputPrompt {display: none}
  body {padding: 0 .4rem}
  .jp-OutputArea-output > svg {max-width: none !important}
}
@media (prefers-color-scheme: dark) {
  :root {--jp-layout-color0: #16181c; --jp-layout-color1: #16181c; --jp-layout-color2: #23262c;
    --jp-cell-editor-background: #23262c; --jp-cell-editor-border-color: #3a3f47;
    --jp-content-font-color0: #fff; --jp-content-font-color1: #e4e6ea; --jp-content-font-color2: #c0c4cc;
    --jp-ui-font-color0: #fff; --jp-ui-font-color1: #e4e6ea; --jp-rendermime-table-row-background: #1d2025;
    --jp-content-link-color: #8ab4f8; --jp-mirror-editor-variable-color: #e4e6ea;
    --jp-mirror-editor-punctuation-color: #9ecbff; --jp-mirror-editor-operator-color: #d7a6ff;
    --jp-mirror-editor-keyword-color: #7ee787; --jp-mirror-editor-number-color: #7ee787;
    --jp-mirror-editor-string-color: #ffa198; --jp-mirror-editor-comment-color: #8fbcbb}
  body, .jp-Notebook {background: #16181c; color: #e4e6ea}
  .highlight, .highlight pre {color: #e4e6ea}
}
</style>
"""


def paths() -> list[Path]:
    """Return every notebook, in order, the solutions last."""
    return [*sorted(FOLDER.glob("[0-9]*.ipynb")), *sorted((FOLDER / "solutions").glob("*.ipynb"))]


def chosen(found: Sequence[Path], only: Sequence[str]) -> list[Path]:
    """Return those paths whose names begin with one of `only`; without `only`, return all. Raises Refused if no name
    does."""
    begin = [path for path in found if not only or path.name.startswith(tuple(only))]
    if not begin:
        raise Refused(f"no name begins with {' or '.join(only)}", "give the beginning of a name, such as 04")
    return begin


def in_a_client(path: Path) -> NotebookNode:
    """Run the notebook at `path` by nbclient, without a browser, and return it. Raises as `checked` does."""
    notebook = cleared(nbformat.read(path, as_version=4))
    surroundings = {"metadata": {"path": str(path.parent)}}
    NotebookClient(notebook, timeout=CELL_LIMIT, resources=surroundings, coalesce_streams=True).execute()
    return checked(notebook, path.name)


@functools.cache
def executed(path: Path, run: Callable[[Path], NotebookNode] = in_a_client) -> NotebookNode:
    """Run the notebook at `path` from clean by `run`, and return it. A second call returns the first result. A Chinese
    notebook is not run: it has the code of the English notebook, and gets its outputs. Raises CellExecutionError if a
    cell fails unexpectedly, or if a cell that must fail does not fail."""
    english = path.with_name(path.name.replace(CHINESE, ""))
    if path == english:
        return run(path)
    return translated(nbformat.read(path, as_version=4), executed(english, run))


def translated(chinese: NotebookNode, run: NotebookNode) -> NotebookNode:
    """Return `chinese` with the outputs of the cells of `run`, the executed English notebook. Raises ValueError if
    their code differs."""
    for cell, one in zip(chinese.cells, run.cells, strict=True):
        if cell.cell_type == "code":
            if cell.source != one.source:
                raise ValueError(f"the translation has other code: {cell.source!r}, not {one.source!r}")
            cell.outputs = copy.deepcopy(one.outputs)
    return chinese


def cleared(notebook: NotebookNode) -> NotebookNode:
    """Return `notebook` without outputs. Changes it in place."""
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    return notebook


def checked(notebook: NotebookNode, name: str) -> NotebookNode:
    """Return `notebook`, which has been run. Raises CellExecutionError, with the notebook's name and the cell's number,
    if a cell failed without the tag `raises-exception`, if a cell with this tag did not fail, or if a cell has not been
    run."""
    for number, cell in enumerate(notebook.cells):
        errors = [output for output in cell.get("outputs", []) if output.output_type == "error"]
        meant = "raises-exception" in tags(cell)
        if errors and not meant:
            ename, evalue, trace = errors[0].ename, errors[0].evalue, "\n".join(errors[0].traceback)
            raise CellExecutionError(f"{name}, cell {number} failed: {ename}: {evalue}\n{trace}", ename, evalue)
        if meant and not errors:
            raise CellExecutionError(f"{name}, cell {number} was to raise and did not", "NothingRaised", "")
        if cell.cell_type == "code" and cell.execution_count is None:
            raise CellExecutionError(f"{name}, cell {number} has not been run", "NotRun", "")
    return notebook


def kept(notebook: NotebookNode) -> NotebookNode:
    """Return `notebook` as it is committed: without execution times and upstream's lines. Changes it in place."""
    notebook.metadata = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
        if cell.cell_type == "code":
            cell.execution_count = None
            if "upstream" in tags(cell):
                cell.outputs = []
            for output in cell.outputs:
                if "execution_count" in output:
                    output.execution_count = None
                if "image/svg+xml" in output.get("data", {}):
                    output.data.pop("text/html", None)  # GitHub shows the SVG alone
    return notebook


def compared(notebook: NotebookNode) -> list[str]:
    """Return the output of each code cell as one text, without the parts that differ from run to run. For a cell with
    the tag `measured`, the text is only this word."""
    names: dict[str, str] = {}
    texts = []
    for cell in kept(notebook).cells:
        if cell.cell_type == "code":
            text = "measured" if "measured" in tags(cell) else "\n".join(_text(output) for output in cell.outputs)
            texts.append(transcript.compared(text, names))
    return texts


def tags(cell: NotebookNode) -> list[str]:
    """The cell's tags."""
    return cell.metadata.get("tags", [])


def book(folder: Path, run: Callable[[Path], NotebookNode] = executed) -> None:
    """Execute every notebook by `run`, and write it to `folder` as an HTML page that needs no network. Write an index
    page, too."""
    from nbconvert import HTMLExporter

    folder.mkdir(parents=True, exist_ok=True)
    exporter = HTMLExporter(exclude_input_prompt=True, exclude_output_prompt=True)  # embed_images unfolds <details>
    entries = []
    for path in paths():
        notebook = copy.deepcopy(run(path))
        for output in (output for cell in notebook.cells for output in cell.get("outputs", [])):
            if svg := output.get("data", {}).get("image/svg+xml"):
                output.data["text/html"] = svg  # inside the page, a search finds the picture's text
        page, _ = exporter.from_notebook_node(notebook, {"metadata": {"path": str(path.parent)}})
        name = f"{'solution_' if path.parent != FOLDER else ''}{path.stem}.html"
        (folder / name).write_text(_offline(page), encoding="utf-8")
        title = notebook.cells[0].source.splitlines()[0].lstrip("# ")
        entries.append(f'<li><a href="{name}">{title}</a></li>')
    (folder / "index.html").write_text(
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>One image and n = 2</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1"><style>body {background: #fff; '
        "font: 1.1rem/1.6 sans-serif; "
        "max-width: 40rem; margin: 2rem auto; padding: 0 1rem} @media (prefers-color-scheme: dark) {body {background: "
        "#16181c; color: #e4e6ea} a {color: #8ab4f8}}</style></head><body><h1>One image and n = 2</h1>"
        f"<p>How sglang died, and why.</p><ul>{''.join(entries)}</ul></body></html>",
        encoding="utf-8",
    )


def _offline(page: str) -> str:
    """The page without scripts, which it does not need. Links between notebooks lead to their pages."""
    page = re.sub(r"<script\b.*?</script>", "", page, flags=re.DOTALL)
    page = re.sub(r'href="solutions/([0-9]\w+)\.ipynb"', r'href="solution_\1.html"', page)
    page = re.sub(r'href="(?:\.\./)?([0-9][\w.-]+)\.ipynb"', r'href="\1.html"', page)
    # a link to a file outside the book becomes plain text
    page = re.sub(r'<a href="[^":]+\.(?:md|py)(?:#[\w-]+)?">(.*?)</a>', r"\1", page)
    return page.replace("</head>", f"{BOOK_STYLE}</head>")


def _text(output: NotebookNode) -> str:
    if output.output_type == "stream":
        return output.text
    if output.output_type == "error":
        return f"{output.ename}: {output.evalue}"
    data = output.data
    return data.get("image/svg+xml") or data.get("text/html") or data.get("text/plain", "")


@command
def main() -> None:
    """Execute in place, or write the book."""
    parser = OneLineParser(description=__doc__)
    parser.add_argument("--book", type=Path, metavar="FOLDER", help="write HTML pages there, and keep nothing here")
    parser.add_argument("only", nargs="*", help="beginnings of names, such as 04")
    options = parser.parse_args()
    if options.book:
        book(options.book)
        return
    for path in chosen(paths(), options.only):
        print(path.name, flush=True)
        nbformat.write(kept(copy.deepcopy(executed(path))), path)


if __name__ == "__main__":
    sys.exit(main())
