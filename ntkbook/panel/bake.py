"""A panel without a kernel: frames over a grid of one or two controls, in one piece of HTML that needs nothing else.

The markup holds only a picture and its reading, which is what a reader sees where scripts do not run. The script hides
nothing that worked: it adds the sliders, and lays frames over a background with the axes, which is stored once. Where
a panel names a point, the reader drags it over the picture: from frame to frame, to the one whose point is nearest.
"""

import base64
import html
import io
import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from .controls import Control
from .picture import Picture, png_bytes, small_png
from .spec import PanelSpec

# Sharpest first: dots per dot of the page, and colours (None: all of them). The first that fits the budget is taken.
QUALITIES = ((2.0, None), (1.5, None), (2.0, 64), (1.5, 64), (1.0, 64), (1.0, 32))
LEAST = 0.72  # of its own width: on a phone a picture scrolls sideways rather than lose its words

_PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>Panel</title>
<style>
body {{ font-family: sans-serif; margin: 1em }}
@media (prefers-color-scheme: dark) {{ body {{ background: #111; color: #eee }} }}
</style>
{}
</html>
"""


@dataclass(frozen=True)
class Baked:
    """A panel as HTML: shown as such in a notebook, `html` for a page of your own, `save` for a file."""

    html: str
    names: tuple[str, ...]
    frames: int

    def save(self, file: str | Path) -> None:
        """Write a page that holds the panel and nothing else."""
        Path(file).write_text(_PAGE.format(self.html), encoding="utf-8")

    def _repr_html_(self) -> str:
        return self.html

    def __repr__(self) -> str:
        return f"Baked({', '.join(self.names)}: {self.frames} frames, {len(self.html) / 1e6:.1f} MB)"


def bake(spec: PanelSpec, state: Mapping[str, float], names: Sequence[str], frames: int, budget: int) -> Baked:
    """Frames of a panel over the controls `names`; the others stay at `state`. See `Panel.bake`."""
    shares = _shares([spec.controls[name] for name in names], frames)
    grids = [_values(spec.controls[name], state[name], share) for name, share in zip(names, shares)]
    settings = [dict(zip(names, values)) for values in itertools.product(*grids)]
    moves = [spec.computed({**state, **setting}) for setting in settings]
    controls = [_described(spec.controls[name], grid, state[name]) for name, grid in zip(names, grids)]
    arrays, readings = [data for data, _ in moves], [line for _, line in moves]
    places = _places(spec, arrays) if set(names) == set(spec.baked) else []
    for density, colours in QUALITIES:
        picture = Picture(spec, arrays[0], density=density)
        few = range(0, len(arrays), max(1, len(arrays) // 4))
        encoded = _encoded(picture, arrays, few, colours)
        size = sum(len(frame) for frame, _ in encoded.values()) * len(arrays) / len(few)
        if size > budget:
            continue  # a few frames are enough to know
        encoded |= _encoded(picture, arrays, [i for i in range(len(arrays)) if i not in encoded], colours)
        in_order = [encoded[i] for i in range(len(arrays))]
        made = _fragment(spec, state, names, controls, readings, places, in_order)
        size = len(made)
        if size <= budget:
            return Baked(made, tuple(names), len(settings))
    raise ValueError(
        f"Expected at most {budget / 1e6:.1f} MB, got about {size / 1e6:.1f} MB for {len(settings)} frames over "
        f"{' and '.join(names)}. Bake fewer frames or one control."
    )


def _shares(controls: Sequence[Control], frames: int) -> list[int]:
    """Of `frames` in all, the number along each control: the first of two has about twice as many, if it has them."""
    most = [control.steps + 1 for control in controls]
    if len(controls) == 1:
        return [min(frames, *most)]
    second = max(2, min(most[1], round((frames / 2) ** 0.5)))
    first = max(2, min(most[0], frames // second))
    return [first, max(second, min(most[1], frames // first))]


def _values(control: Control, present: float, at_most: int) -> list[float]:
    """Values along a control, among them the present one, with which the slider starts."""
    indices, start = {round(i) for i in np.linspace(0, control.steps, at_most)}, control.index_of(present)
    inner = sorted(indices - {0, control.steps}, key=lambda i: abs(i - start))
    gone = {start} if start in indices else set(inner[:1])  # the nearest gives its place
    return sorted({control.value_at(i) for i in indices - gone} | {present})


def _encoded(
    picture: Picture, moves: Sequence[Any], indices: Sequence[int], colours: int | None
) -> dict[int, tuple[str, str]]:
    """Index of a move -> its frame and its background as data addresses."""
    found, before, ground = {}, None, ""
    for index in indices:
        picture.move(moves[index])
        background, frame = picture.layers()
        if before is None or not np.array_equal(background, before):  # the same for most
            before, ground = background, _address("png", png_bytes(background))
        found[index] = (_small(frame, colours), ground)
    return found


def _places(spec: PanelSpec, arrays: Sequence[dict[str, Any]]) -> list[list[float]]:
    """Where the point to drag is in each frame, as shares of the picture from its lower left; none without one."""
    if not spec.point:
        return []
    picture = Picture(spec, arrays[0], density=1.0)
    picture.rgba()  # an aspect is applied by drawing
    return [picture.place_of(*data[spec.point]) for data in arrays]


def _small(rgba: np.ndarray, colours: int | None) -> str:
    """The smallest encoding of a flat picture: lossless WebP, or a PNG of few colours."""
    out, image = io.BytesIO(), Image.fromarray(rgba)
    if colours is not None:
        return _address("png", small_png(image, colours))
    image.save(out, "WEBP", lossless=True, method=1)  # method 2 takes a third longer, for a fortieth at best
    return _address("webp", out.getvalue())


def _address(kind: str, content: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def _described(control: Control, values: Sequence[float], present: float) -> dict[str, Any]:
    shown = [control.words(value) for value in values]
    kind = "toggle" if control.is_toggle else "slider"
    return {"label": control.label, "unit": control.unit, "values": shown, "start": values.index(present), "kind": kind}


def _held(spec: PanelSpec, state: Mapping[str, float], names: Sequence[str]) -> str:
    """The controls that do not move here, and where they stand."""
    held = [(control, state[name]) for name, control in spec.controls.items() if name not in names]
    words = ", ".join(f"{control.label} {control.words(value)} {control.unit}".strip() for control, value in held)
    if len(held) > 5:
        words = f"{', '.join(control.label for control, _ in held[:3])} and {len(held) - 3} more"
    return f"Held here, alive in a notebook: {words}." if held else ""


def _fragment(
    spec: PanelSpec,
    state: Mapping[str, float],
    names: Sequence[str],
    controls: Sequence[dict[str, Any]],
    readings: Sequence[str],
    places: Sequence[Sequence[float]],
    encoded: Sequence[tuple[str, str]],
) -> str:
    backgrounds = list(dict.fromkeys(ground for _, ground in encoded))
    content = {
        "controls": controls,
        "readings": readings,
        "places": places,
        "frames": [frame for frame, _ in encoded],
        "backgrounds": backgrounds,
        "which": [backgrounds.index(ground) for _, ground in encoded],
    }
    text = json.dumps(content, ensure_ascii=False, separators=(",", ":")).replace("</", "<\\/")
    data, reading = spec.computed(state)
    still = Picture(spec, data, density=1.0).png()
    title = f"<b>{html.escape(spec.title)}</b> " if spec.title else ""
    words, least = html.escape(f"{spec.title or 'Picture'} {reading}"), spec.size[0] * 100 * LEAST
    is_default = set(names) == set(spec.baked)
    caption = html.escape(spec.baked_caption if is_default and spec.baked_caption else spec.caption)
    head = f"<div>{title}{caption}</div>" if title or caption else ""
    held = html.escape(_held(spec, state, names))
    return (
        f'<div class="ntkbook-baked" style="max-width:{spec.size[0] * 100:.0f}px;line-height:1.5">{head}'
        f'<div class="ntkbook-frame" style="overflow:auto hidden">'
        f'<div class="ntkbook-picture" style="position:relative;min-width:{least:.0f}px">'
        f'<img alt="{words}" src="{_address("png", still)}" style="{_PICTURE}"></div></div>'
        f'<div class="ntkbook-reading" role="status" aria-live="polite">{html.escape(reading)}</div>'
        f'<div class="ntkbook-held" style="font-size:90%;opacity:0.8">{held}</div>'
        f'<script type="application/json">{text}</script><script>{_SCRIPT}</script></div>\n'
    )


# Dark themes of documentation sites put white under every picture, with a rim and a filter: the frames, which lie over
# the axes, would hide them.
_PICTURE = "width:100%;display:block;background:none!important;padding:0!important;filter:none!important"


# Every fragment brings the script and wakes those on the page that are not yet awake. A slider that is in the markup
# would outlive a sanitiser that drops the script, and JupyterLab would take its arrow keys without the attribute.
_SCRIPT = """
document.querySelectorAll('.ntkbook-baked:not([data-awake])').forEach(box => {
  const source = box.querySelector('script[type="application/json"]');
  if (!source) return;
  box.dataset.awake = 'yes';
  const content = JSON.parse(source.textContent);
  const picture = box.querySelector('.ntkbook-picture'), back = picture.querySelector('img');
  const reading = box.querySelector('.ntkbook-reading'), alt = back.alt;
  const front = back.cloneNode();
  front.alt = ''; front.setAttribute('aria-hidden', 'true');
  front.style.position = 'absolute'; front.style.left = 0; front.style.top = 0;
  picture.append(front);
  const row = document.createElement('div'), tall = matchMedia('(pointer: coarse)').matches ? 44 : 32;  // for a finger
  row.style.cssText = 'display:flex;flex-wrap:wrap;gap:4px 24px;margin:4px 0';
  const inputs = content.controls.map((control, which) => {
    const label = document.createElement('label'), input = document.createElement('input');
    const value = document.createElement('output'), group = document.createElement('div');
    label.style.cssText = 'display:flex;flex-wrap:wrap;align-items:center;gap:0 8px;min-height:' + tall + 'px';
    group.style.cssText = label.style.cssText + ';flex-wrap:nowrap';
    input.dataset.lmSuppressShortcuts = 'true';
    input.setAttribute('aria-label', control.label + (control.unit ? ' (' + control.unit + ')' : ''));
    input.style.cssText = 'accent-color:#0072B2';
    if (control.kind === 'toggle') {
      input.type = 'checkbox'; input.checked = control.start === 1;
      label.append(input, control.label);
    } else {
      input.type = 'range'; input.min = 0; input.max = control.values.length - 1; input.value = control.start;
      input.style.cssText += ';flex:0 1 220px;min-width:0;width:220px;height:' + tall + 'px';
      value.style.cssText = 'min-width:4em;font-variant-numeric:tabular-nums';
      const both = document.createElement('span');  // a number never parts from its slider
      both.style.cssText = 'display:flex;align-items:center;gap:8px;min-width:0';
      both.append(input, value);
      label.append(control.label, both);
    }
    group.append(label);
    if (which === 0 && control.kind !== 'toggle') group.prepend(player(input, control));
    row.append(group);
    input.addEventListener('input', draw);
    return {input, value, control};
  });
  function player(input, control) {
    const button = document.createElement('button'), last = control.values.length - 1;
    let timer = null;
    const stop = () => {
      clearInterval(timer); timer = null;
      button.textContent = '\u25b6'; button.setAttribute('aria-label', 'Play ' + control.label);
      reading.setAttribute('aria-live', 'polite');
    };
    button.type = 'button';
    button.style.cssText = 'flex:none;width:' + tall + 'px;height:' + tall + 'px;padding:0;font:inherit;color:inherit;'
      + 'background:none;cursor:pointer;border:1px solid currentColor;border-radius:4px';
    button.addEventListener('click', () => {
      if (timer) return stop();
      if (Number(input.value) === last) { input.value = 0; draw(); }
      button.textContent = '\u275a\u275a'; button.setAttribute('aria-label', 'Pause ' + control.label);
      reading.setAttribute('aria-live', 'off');
      timer = setInterval(() => {
        if (!box.isConnected || Number(input.value) >= last) stop();
        else { input.value = Number(input.value) + 1; draw(); }
        if (Number(input.value) >= last) stop();
      }, Math.min(600, Math.max(80, 5000 / last)));
    });
    stop();
    return button;
  }
  box.insertBefore(row, picture.parentElement);
  const places = content.places || [], point = document.createElement('button');
  if (places.length) {
    const words = content.controls.map(control => control.label).join(', ');
    point.type = 'button'; point.className = 'ntkbook-point'; point.dataset.lmSuppressShortcuts = 'true';
    point.setAttribute('aria-label', 'Point to drag: ' + words + '. By keyboard: arrows');
    point.style.cssText = 'position:absolute;width:44px;height:44px;transform:translate(-50%,50%);border:0;padding:0;'
      + 'border-radius:50%;background:none;cursor:grab;touch-action:none';
    picture.append(point);
    const near = (e, reach) => {  // the frame whose point is nearest to the finger, if that is within reach
      const r = picture.getBoundingClientRect(), x = e.clientX - r.left, y = r.bottom - e.clientY;
      const far = places.map(([u, v]) => Math.hypot(u * r.width - x, v * r.height - y)), least = Math.min(...far);
      return least <= reach * r.width ? far.indexOf(least) : -1;
    };
    const go = frame => {
      for (const {input, control} of [...inputs].reverse()) {
        const index = frame % control.values.length;
        if (control.kind === 'toggle') input.checked = index === 1; else input.value = index;
        frame = (frame - index) / control.values.length;
      }
      draw();
    };
    picture.addEventListener('pointerdown', e => {
      const from = e.target === point ? -1 : near(e, 0.1);
      if (e.target !== point && (from < 0 || e.pointerType === 'touch')) return;  // a finger scrolls the page
      e.preventDefault();
      if (from >= 0) go(from);
      point.setPointerCapture(e.pointerId); point.focus({preventScroll: true});
    });
    picture.addEventListener('click', e => {
      const frame = e.target === point ? -1 : near(e, 0.1);
      if (frame >= 0) go(frame);
    });
    point.addEventListener('pointermove', e => { if (point.hasPointerCapture(e.pointerId)) go(near(e, Infinity)); });
    const keys = {ArrowRight: [0, 1], ArrowLeft: [0, -1], ArrowUp: [1, 1], ArrowDown: [1, -1]};
    point.addEventListener('keydown', e => {
      const [which, step] = keys[e.key] || [], moved = inputs[which];
      if (!moved) return;
      e.preventDefault(); e.stopPropagation();
      moved.input.value = Number(moved.input.value) + step;  // a slider keeps to its ends
      draw();
    });
  }
  function draw() {
    let frame = 0;
    for (const {input, value, control} of inputs) {
      const index = control.kind === 'toggle' ? Number(input.checked) : Number(input.value);
      const text = control.values[index] + (control.unit ? ' ' + control.unit : '');
      frame = frame * control.values.length + index;
      value.textContent = text;
      if (control.kind !== 'toggle') input.setAttribute('aria-valuetext', text);
    }
    const ground = content.backgrounds[content.which[frame]];
    if (back.src !== ground) back.src = ground;
    front.src = content.frames[frame];
    if (places.length) [point.style.left, point.style.bottom] = places[frame].map(share => 100 * share + '%');
    reading.textContent = content.readings[frame];
    back.alt = alt.split('.')[0] + '. ' + content.readings[frame];
  }
  draw();
});
""".strip()
