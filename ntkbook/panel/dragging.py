"""The picture with points that a reader drags: by mouse, by touch, and by arrow keys on a point that has the focus.

Core ipywidgets have no pointer events, so that this picture is an anywidget. Over each point lies a button without a
face: it takes the focus, has a name, and is large enough for a finger. Places are shares of the picture, (0, 0) at its
lower left. A click on the picture moves the nearest point. Nothing but the picture and the places travels.
"""

from collections.abc import Callable
from typing import Any

import anywidget
import traitlets

Dragged = Callable[[int, float, float], None]
Stepped = Callable[[int, int, int], None]

# Keys are counted up, so that the front end may merge messages and no press is lost.
_SCRIPT = """
export default { render({ model, el }) {
  const img = document.createElement('img');
  img.className = 'widget-image'; img.draggable = false; img.alt = '';
  img.style.cssText = 'width:100%;display:block;cursor:crosshair;user-select:none';
  el.style.cssText += ';position:relative;overflow:visible';
  el.append(img);
  let held = null;
  const at = e => { const r = img.getBoundingClientRect();
    return [(e.clientX - r.left) / r.width, 1 - (e.clientY - r.top) / r.height]; };
  const send = (point, [u, v]) => { model.set('place', { point, u, v }); model.save_changes(); };
  const nearest = e => { const r = img.getBoundingClientRect(), [u, v] = at(e);
    const far = ([a, b]) => Math.hypot((a - u) * r.width, (b - v) * r.height);
    const all = model.get('points').map(far);
    return all.indexOf(Math.min(...all)); };
  const start = (point, e) => { held = point; e.target.setPointerCapture(e.pointerId); buttons[point].focus(); };
  const move = e => { if (held !== null) send(held, at(e)); };
  const stop = () => { held = null; };
  const listen = element => { element.addEventListener('pointermove', move);
    element.addEventListener('pointerup', stop); element.addEventListener('pointercancel', stop); };
  const STEPS = { ArrowRight: [1, 0], ArrowLeft: [-1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] };
  const totals = model.get('points').map(() => [0, 0]);
  const buttons = model.get('points').map((_, point) => {
    const b = document.createElement('button');
    b.type = 'button'; b.className = 'ntkbook-point'; b.dataset.lmSuppressShortcuts = 'true';
    b.style.cssText = 'position:absolute;width:32px;height:32px;transform:translate(-50%,50%);border:0;padding:0;' +
      'border-radius:50%;background:none;cursor:grab;touch-action:none';
    b.addEventListener('pointerdown', e => { e.preventDefault(); start(point, e); });
    b.addEventListener('keydown', e => { const step = STEPS[e.key]; if (!step) return;
      e.preventDefault(); e.stopPropagation();
      const size = e.shiftKey ? 10 : 1;
      totals[point] = [totals[point][0] + size * step[0], totals[point][1] + size * step[1]];
      model.set('steps', totals.map(t => [...t])); model.save_changes(); });
    listen(b); el.append(b);
    return b;
  });
  img.addEventListener('pointerdown', e => { if (e.pointerType !== 'touch') {
    e.preventDefault(); const point = nearest(e); start(point, e); send(point, at(e)); } });
  img.addEventListener('click', e => { if (e.pointerType === 'touch') send(nearest(e), at(e)); });
  listen(img);
  const place = () => model.get('points').forEach(([u, v], i) => {
    buttons[i].style.left = 100 * u + '%'; buttons[i].style.bottom = 100 * v + '%';
    buttons[i].setAttribute('aria-label', model.get('names')[i]); });
  const show = () => { const old = img.src;
    img.src = URL.createObjectURL(new Blob([model.get('value')], { type: 'image/png' }));
    if (old) URL.revokeObjectURL(old); };
  model.on('change:value', show); model.on('change:points', place); model.on('change:names', place);
  show(); place();
} }
"""


class DragPicture(anywidget.AnyWidget):
    """A PNG picture, the places of its points, and what the reader does to them."""

    _esm = _SCRIPT
    value = traitlets.Bytes().tag(sync=True)
    points = traitlets.List().tag(sync=True)
    names = traitlets.List().tag(sync=True)
    place = traitlets.Dict().tag(sync=True)
    steps = traitlets.List().tag(sync=True)

    def listen(self, dragged: Dragged, stepped: Stepped) -> None:
        """Call `dragged(point, u, v)` for a place, and `stepped(point, right, up)` for keys."""
        seen = [[0, 0] for _ in self.points]

        def on_steps(change: Any) -> None:
            for point, total in enumerate(change["new"]):
                right, up = total[0] - seen[point][0], total[1] - seen[point][1]
                seen[point] = list(total)
                if right or up:
                    stepped(point, right, up)

        self.observe(lambda change: dragged(*(change["new"][name] for name in ("point", "u", "v"))), names="place")
        self.observe(on_steps, names="steps")
