"""The activation and the layer that CONTRIBUTING shows in full: they work, with values from elsewhere."""

import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ntkbook as nb

ROOT = Path(__file__).resolve().parent.parent
PAGE = (ROOT / "CONTRIBUTING.md").read_text()
LAYER_PAGE = (ROOT / "docs" / "make_your_own_layer.md").read_text()


@pytest.mark.slow
def test_the_examples_of_the_page_are_a_network():
    names = {}
    (block,) = re.findall(r"```python\n(.*?)```", PAGE, re.S)
    exec(block, names)
    net, rng = names["net"], np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(3, 5)))
    k = x @ x.T / 5
    q = np.diag(k)
    T, slope = np.outer(q, q) + 2 * k**2, 4 * k  # moments of Gaussians
    np.testing.assert_allclose(nb.nngp(net, x), T / 4, rtol=1e-12)
    np.testing.assert_allclose(nb.ntk(net, x), (T + slope * k) / 4, rtol=1e-12)
    wide = nb.serial(nb.Dense(256), names["Square"](), names["Scale"](0.5), nb.Dense(1))
    keys = jax.random.split(jax.random.key(0), 200)
    found = np.stack([nb.empirical_ntk(wide.apply, wide.init(key, (-1, 5))[1], x) for key in keys])
    gap, error = found.mean(0) - (T + slope * k) / 4, found.std(0, ddof=1) / 200**0.5
    assert (np.abs(gap) < 4 * error).all()


@pytest.mark.slow
def test_the_page_of_the_site_goes_on_from_there():
    names = {}
    for page in (PAGE, LAYER_PAGE):
        for block in re.findall(r"```python\n(.*?)```", page, re.S):
            exec(block, names)
    start, end = re.findall(r':(?:start-after|end-before): "(.*?)"', LAYER_PAGE)
    assert PAGE.count(start) == PAGE.count(end) == 1, "what the page of the site includes has moved"


def test_the_map_of_the_house_fits_one_screen_and_names_every_room():
    start, end = PAGE.index("## A map of the house"), PAGE.index("## Where do I put")
    page = PAGE[start:end]
    assert len(page.splitlines()) < 30
    package = Path(nb.__file__).parent
    for folder in ("networks", "finite", "dynamics"):
        for path in (package / folder).glob("[!_]*.py"):
            assert f"`{path.stem}`" in page, f"{folder}/{path.name} has no place on the map"
