"""Evidence as pictures: SVG that needs nothing else, each with the same as plain text.

`lanes` draws tokenizer | the kernel's name table | scheduler over time, `graph` which object points to which, `clients`
(its module) one lane a client of a server. All are the same, byte for byte, from run to run; black on white (also in a
dark page), told apart by shape and not by color; and readable without eyes: role=img, <title>, and the text as <desc>.
"""

from repro.lab.pictures.dot import path as dot_path
from repro.lab.pictures.lane_rows import text as lanes_text
from repro.lab.pictures.lanes_svg import lanes
from repro.lab.pictures.objects import text as graph_text
from repro.lab.pictures.objects_svg import graph

__all__ = ["dot_path", "graph", "graph_text", "lanes", "lanes_text"]
