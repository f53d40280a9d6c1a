"""Words drawn once, and then stamped wherever they go: text is half of the time of a move, and mostly the same words.

A stamp lies on whole pixels, so a line may be a pixel from its place. That is good enough for a draft, and only
drafts are drawn so.
"""

from typing import Any, NamedTuple, TypeGuard

import numpy as np
from matplotlib.artist import Artist
from matplotlib.backends.backend_agg import RendererAgg
from matplotlib.text import Text
from matplotlib.transforms import IdentityTransform

MOST = 200  # stamps that are kept


class Stamp(NamedTuple):
    """Pixels (height, width, 4), the lowest row first; their lower left corner as seen from the anchor of the text."""

    pixels: np.ndarray
    left: int
    bottom: int


class Stamps:
    """Draws artists: plain words by stamps, everything else as ever."""

    def __init__(self):
        self._found: dict[Any, Stamp | None] = {}

    def draw(self, artist: Artist, renderer: RendererAgg) -> None:
        """As `artist.draw(renderer)`, but for a pixel."""
        if not _is_plain(artist):
            artist.draw(renderer)
            return
        stamp = self._stamp(artist, renderer)
        if stamp is not None:
            x, y = _anchor(artist)
            gc = renderer.new_gc()
            renderer.draw_image(gc, round(x) + stamp.left, round(y) + stamp.bottom, stamp.pixels)
            gc.restore()

    def _stamp(self, words: Text, renderer: RendererAgg) -> Stamp | None:
        look = (words.get_color(), words.get_alpha(), words.get_fontproperties(), words.get_rotation())
        key = words.get_text(), *look, words.get_horizontalalignment(), words.get_verticalalignment(), renderer.dpi
        if key not in self._found:
            if len(self._found) >= MOST:
                self._found.clear()
            self._found[key] = make_stamp(words, renderer)
        return self._found[key]


def make_stamp(words: Text, renderer: RendererAgg) -> Stamp | None:
    """The words in the middle of an empty page; None if nothing is to be seen."""
    width, height = int(renderer.width), int(renderer.height)
    page = RendererAgg(2 * width, 2 * height, renderer.dpi)
    place, transform = words.get_position(), words.get_transform()
    words.set_transform(IdentityTransform())
    words.set_position((width, height))
    words.draw(page)
    words.set_transform(transform)
    words.set_position(place)
    pixels = np.asarray(page.buffer_rgba())
    rows, columns = (np.flatnonzero(pixels[..., 3].any(axis=axis)) for axis in (1, 0))
    if not rows.size:
        return None
    top, bottom, left, right = rows[0], rows[-1] + 1, columns[0], columns[-1] + 1
    upwards = pixels[top:bottom, left:right][::-1]  # `draw_image` begins at the bottom
    return Stamp(upwards.copy(), int(left) - width, height - int(bottom))


def _anchor(words: Text) -> tuple[float, float]:
    x, y = words.get_transform().transform(words.get_unitless_position())
    return float(x), float(y)


def _is_plain(artist: Artist) -> TypeGuard[Text]:
    # boxes, halos, clipping and subclasses (annotations) have more to draw than words
    return (
        type(artist) is Text
        and artist.get_visible()
        and artist.get_bbox_patch() is None
        and not artist.get_path_effects()
        and not (artist.get_clip_on() and (artist.get_clip_box() or artist.get_clip_path()))
        and bool(np.isfinite(_anchor(artist)).all())
    )
