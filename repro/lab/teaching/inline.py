"""Pictures that stand in the page itself."""

from __future__ import annotations

from IPython.display import SVG


class Picture(SVG):
    """An SVG that JupyterLab puts into the page itself, so that a mark tells what it is under the mouse, and a screen
    reader finds the text. Of an SVG alone JupyterLab makes an image, which tells nothing."""

    def _repr_html_(self) -> str:
        return self._repr_svg_()
