"""Stamped words against matplotlib's own drawing of them."""

import numpy as np
import pytest
from matplotlib.backends.backend_agg import RendererAgg
from matplotlib.figure import Figure

from ntkbook.panel import stamps


def drawn(artist, draw) -> np.ndarray:
    """The page (200, 300, 4) with nothing but the artist, 0 to 255, colours multiplied by the share of alpha."""
    renderer = RendererAgg(300, 200, 100)
    draw(artist, renderer)
    pixels = np.asarray(renderer.buffer_rgba()).astype(float)
    pixels[..., :3] *= pixels[..., 3:] / 255
    return pixels


def plainly(artist, renderer):
    artist.draw(renderer)


def assert_same_words(found, wanted):
    """The same ink in the same colours, in the same place but for a pixel: matplotlib rounds each line by itself."""
    for axis in (0, 1):
        here, there = (np.flatnonzero(page[..., 3].any(axis=axis))[[0, -1]] for page in (found, wanted))
        assert abs(here - there).max() <= 1
    np.testing.assert_allclose(found.sum((0, 1)), wanted.sum((0, 1)), rtol=0.03)


def words(**look):
    look = {"color": "#0072B2", "fontsize": 9, "animated": True, **look}
    return Figure(figsize=(3, 2), dpi=100).text(0.4, 0.3, "2000\nnetworks", **look)  # on a whole pixel: (120, 60)


@pytest.mark.parametrize(
    "look",
    [
        {},
        {"ha": "center", "va": "center", "rotation": 90},
        {"alpha": 0.3},
        {"bbox": {"facecolor": "yellow"}},
        {"visible": False},
        {"text": ""},
    ],
    ids=str,
)
def test_a_stamp_is_what_it_stands_for(look):
    artist, draw = words(), stamps.Stamps().draw
    artist.update(look)
    for _ in range(2):  # made, and used again
        np.testing.assert_allclose(drawn(artist, draw), drawn(artist, plainly), atol=2.5)


def test_words_that_move_change_or_turn_red_are_seen_to_do_so(monkeypatch):
    made = []
    make = stamps.make_stamp
    monkeypatch.setattr(stamps, "make_stamp", lambda *args: made.append(args) or make(*args))
    artist, draw = words(), stamps.Stamps().draw
    for change in ({}, {"position": (0.6, 0.5)}, {"text": "other words"}, {"color": "red"}, {"position": (0.2, 0.1)}):
        artist.update(change)
        assert_same_words(drawn(artist, draw), drawn(artist, plainly))
    assert len(made) == 3  # a word that only moves is not drawn again


def test_a_stamp_is_a_pixel_off_at_most_wherever_it_goes():
    artist, draw = words(), stamps.Stamps().draw
    for place in np.random.default_rng(0).uniform(0.2, 0.7, (30, 2)):
        artist.set_position(place)
        assert_same_words(drawn(artist, draw), drawn(artist, plainly))


def test_old_stamps_are_forgotten(monkeypatch):
    monkeypatch.setattr(stamps, "MOST", 3)
    artist, page = words(), stamps.Stamps()
    for i in range(10):
        artist.set_text(str(i))
        drawn(artist, page.draw)
    assert len(page._found) <= 3
