"""Evidence as pictures. Each picture is an SVG that needs no other file, and there is a plain text with the same
content.

`lanes` draws tokenizer | the kernel's name table | scheduler over time. `graph` draws which object points to which. The
module `clients` draws one lane for each client of a server. Two runs in which the same happens give the same picture,
byte for byte. The pictures are black on white, also in a dark page. Marks differ in shape, not only in color. A screen
reader finds role=img, <title>, and the plain text as <desc>.
"""

from repro.lab.pictures.dot import path as dot_path
from repro.lab.pictures.lane_rows import text as lanes_text
from repro.lab.pictures.lanes_svg import lanes
from repro.lab.pictures.objects import text as graph_text
from repro.lab.pictures.objects_svg import graph

__all__ = ["dot_path", "graph", "graph_text", "lanes", "lanes_text"]
