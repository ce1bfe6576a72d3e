"""Pictures as SVG elements of a notebook's page."""

from __future__ import annotations

from IPython.display import SVG


class Picture(SVG):
    """An SVG that JupyterLab puts into the page as an element. So the marks have their tooltips, and a screen reader
    finds the text. JupyterLab shows a plain `SVG` as an image, which has neither."""

    def _repr_html_(self) -> str:
        return self._repr_svg_()
