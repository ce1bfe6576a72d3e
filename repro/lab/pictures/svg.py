"""How the kit's pictures look. They are black on white, also in a dark page. Marks differ in shape, not only in color.
A screen reader finds role=img, <title>, and the picture's content as text in <desc>."""

from __future__ import annotations

import re
from collections.abc import Iterable
from xml.sax.saxutils import escape

INK, SOFT, PALE, NAMED, BAD = "#111111", "#595959", "#f1f1f1", "#1f3a5f", "#a4001d"
SANS, MONO = "system-ui, 'Segoe UI', Helvetica, Arial, sans-serif", "ui-monospace, Menlo, 'DejaVu Sans Mono', monospace"
EDGE, CHAR = 18, 8.3  # pixels: the margin, a wide font's mean character


def document(title: str, description: str, width: float, height: float, body: str) -> str:
    """An SVG document around `body`, which is `width` x `height` pixels: with the texts for a screen reader, a title
    and a white ground."""
    width, top = max(width, len(title) * 9 + 2 * EDGE), 40
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" role="img" width="{width:.0f}" height="{height + top:.0f}" '
        f'viewBox="0 0 {width:.0f} {height + top:.0f}" style="max-width:100%;height:auto" font-family="{SANS}" '
        f'font-size="14" fill="{INK}">\n<title>{xml(title)}</title>\n<desc>{xml(description)}</desc>\n'
        f'<rect width="100%" height="100%" rx="8" fill="#ffffff"/>\n'
        f"{text(EDGE, 26, title, size=16, weight='bold')}\n"
        f'<g transform="translate(0 {top})">\n{body}\n</g>\n</svg>\n'
    )


def text(x: float, y: float, words: str, *, anchor="start", weight="normal", size=14, color=INK) -> str:
    """Words at a point. Their base line begins there, or, by `anchor`, ends there or has its middle there."""
    extra = f' text-anchor="{anchor}"' * (anchor != "start") + f' font-weight="{weight}"' * (weight != "normal")
    extra += f' font-size="{size}"' * (size != 14) + f' fill="{color}"' * (color != INK)
    return f'<text x="{x:.1f}" y="{y:.1f}"{extra}>{xml(words)}</text>'


def lines(words: list[str]) -> tuple[float, float, str]:
    """Width, height and body of a drawing that shows these lines of plain text."""
    body = "\n".join(text(EDGE, 20 + 20 * k, line, size=13) for k, line in enumerate(words))
    body = f'<g font-family="{MONO}" xml:space="preserve">\n{body}\n</g>'
    return 2 * EDGE + 8 * max(map(len, words)), 20 * len(words) + 20, body


def stroke(path: str, *, color=INK, width=1.2, dash="") -> str:
    """A line along a path."""
    extra = f' stroke-dasharray="{dash}"' if dash else ""
    return f'<path d="{path}" fill="none" stroke="{color}" stroke-width="{width}"{extra}/>'


def told(words: str, marks: Iterable[str]) -> str:
    """The marks as one group, with `words` as its tooltip."""
    return f"<g><title>{xml(words)}</title>{''.join(marks)}</g>"


def xml(words: str) -> str:
    """`words` escaped for XML. Characters that XML cannot hold are replaced."""
    return escape(re.sub("[^\t\n\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]", "\N{REPLACEMENT CHARACTER}", words))
