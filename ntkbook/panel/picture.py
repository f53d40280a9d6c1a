"""Artists to bytes, fast: axes are drawn once and kept; a move restores them and draws what lies on top.

A full matplotlib draw spends most of its time on text that does not change. Here everything inside the axes (curves,
bands, points, images, labels) is drawn anew at each move, in the usual order, on a stored background of frames, ticks
and axis labels. Matplotlib itself says when that background is out of date: whatever changes and is not part of the
moving set (limits, ticks, titles, artists with a zorder below 1) marks the figure stale, and only then is all redrawn.
"""

import io
import struct
import zlib
from typing import Any

import matplotlib
import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.spines import Spine
from matplotlib.text import Text
from PIL import Image

from .. import plots
from .controls import Number
from .spec import PanelSpec
from .stamps import Stamps

DOTS_PER_INCH = 100  # of the page; the picture has `density` times as many


class Picture:
    """A figure on a canvas of its own (no pyplot, no global state), kept for in-place updates.

    `spec.build` makes the artists once; `spec.update` moves them. A draft draws words quickly, to a pixel.
    """

    def __init__(self, spec: PanelSpec, data: dict[str, Any], *, density: Number, is_draft: bool = False):
        self.figure = Figure(figsize=spec.size, dpi=DOTS_PER_INCH * density, facecolor="none")
        self.canvas = FigureCanvasAgg(self.figure)
        with matplotlib.rc_context(plots.RC):
            self.artists = spec.build(self.figure, data)
        for ax in self.figure.axes:
            plots.arrange_labels(ax)
            # what is kept lies below what moves: in a paper's figure too
            ax.set_axisbelow(True)
            for spine in ax.spines.values():
                spine.set_zorder(0.5)
        self.full_draws = 0
        self._update = spec.update
        self._moving: list[Artist] = []
        self._draw = Stamps().draw if is_draft else lambda artist, renderer: artist.draw(renderer)
        self._background: Any = None

    def move(self, data: dict[str, Any]) -> None:
        """Move the artists to `data`."""
        # a curve that a mark adds while it moves takes its look from the style, as those of `build` do
        self._update(self.artists, data)

    def rgba(self) -> np.ndarray:
        """The picture as an array, (height, width, 4) of bytes."""
        for ax in self.figure.axes:
            plots.arrange_labels(ax)
        if self._background is None or self.figure.stale:
            self._redraw_background()
        self.canvas.restore_region(self._background)
        renderer = self.canvas.get_renderer()
        for artist in self._moving:
            self._draw(artist, renderer)
        return np.asarray(self.canvas.buffer_rgba())

    def layers(self) -> tuple[np.ndarray, np.ndarray]:
        """The picture in two: the background, and what moves on a transparent one."""
        self.rgba()  # brings the background up to date
        renderer = self.canvas.get_renderer()
        renderer.clear()
        self.canvas.restore_region(self._background)
        background = np.array(self.canvas.buffer_rgba())
        renderer.clear()
        for artist in self._moving:
            artist.draw(renderer)
        return background, np.array(self.canvas.buffer_rgba())

    def png(self) -> bytes:
        """The picture as a PNG file with a transparent background."""
        return png_bytes(self.rgba())

    def place_of(self, x: float, y: float) -> list[float]:
        """Where a point of the first axes is, as shares of the picture's width and height from its lower left."""
        pixels = self.figure.axes[0].transData.transform((x, y))
        u, v = self.figure.transFigure.inverted().transform(pixels)
        return [round(float(u), 5), round(float(v), 5)]

    def point_at(self, u: float, v: float) -> tuple[float, float]:
        """The point of the first axes at a place of the picture."""
        pixels = self.figure.transFigure.transform((u, v))
        x, y = self.figure.axes[0].transData.inverted().transform(pixels)
        return float(x), float(y)

    def _redraw_background(self) -> None:
        self._moving = moving_artists(self.figure)
        for artist in self._moving:
            artist.set_animated(True)  # kept out of the full draw, and silent when it changes
        with matplotlib.rc_context(plots.RC):
            self.canvas.draw()
        self._background = self.canvas.copy_from_bbox(self.figure.bbox)
        self.figure.stale = False
        self.full_draws += 1


def moving_artists(fig: Figure) -> list[Artist]:
    """All in the axes with a zorder of 1 or more, in drawing order, axes after axes; then words on the figure."""
    moving: list[Artist] = []
    for ax in fig.axes:
        inside = [a for a in ax.get_children() if not _is_fixed(a, ax)]
        moving += sorted((a for a in inside if a.get_zorder() >= 1), key=lambda a: a.get_zorder())
    return moving + list(fig.texts)


def _is_fixed(artist: Artist, ax: Axes) -> bool:
    """Is it of the frame: its ground, axes, spines, or one of the three titles, which are not among its texts?"""
    is_title = isinstance(artist, Text) and artist not in ax.texts
    return artist is ax.patch or is_title or isinstance(artist, (Axis, Spine))


def png_bytes(rgba: np.ndarray) -> bytes:
    """A PNG file of an (height, width, 4) array of bytes.

    Rows are stored as differences from the row above and packed at the fastest level: for flat pictures that is a
    third of the time of a general encoder, and as small. Nothing is stored of the date or of who wrote it.
    """
    height, width, _ = rgba.shape
    rows = rgba.reshape(height, 4 * width)
    raw = np.empty((height, 1 + 4 * width), np.uint8)
    raw[:, 0] = 2  # filter "up"
    raw[0, 1:] = rows[0]
    np.subtract(rows[1:], rows[:-1], out=raw[1:, 1:])
    header = struct.pack(">IIBBBBB", width, height, 8, 6, 0, 0, 0)
    body = zlib.compress(raw.data, 1)
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + _chunk(b"IDAT", body) + _chunk(b"IEND", b"")


def small_png(image: Image.Image, colours: int = 256) -> bytes:
    """A PNG file of few colours: an eighth of the size, and slower; for pictures that are kept."""
    out = io.BytesIO()
    image.quantize(colours, method=Image.Quantize.FASTOCTREE).save(out, "PNG", optimize=True)
    return out.getvalue()


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
