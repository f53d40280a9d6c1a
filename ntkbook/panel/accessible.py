"""Names for what core ipywidgets leave nameless: handles of sliders, buttons that play, the picture, the live line.

The number field of each control has a label of its own and needs no help. A handle has none and counts steps, the
picture has no alt text, and the reading line is replaced as a whole, which screen readers may miss. A tiny hidden image
brings a few lines of script that put this right; where a front end forbids them, all else works as before.
"""

_SCRIPT = """
(panel => {
  if (!panel) return;
  const put = (element, name, value) => {
    if (element && element.getAttribute(name) !== value) element.setAttribute(name, value);
  };
  const name = () => {
    panel.querySelectorAll('.ntkbook-control').forEach(row => {
      const handle = row.querySelector('.noUi-handle'), label = row.querySelector('label');
      const field = row.querySelector('input[type=number], select');
      if (!handle || !label || !field) return;
      put(handle, 'aria-label', label.textContent);
      row.querySelectorAll('.widget-play button').forEach((button, which) =>
        put(button, 'aria-label', ['Play ', 'Stop ', 'Repeat '][which] + label.textContent));
      put(handle, 'aria-valuetext', field.selectedOptions ? field.selectedOptions[0].text : field.value);
    });
    const line = panel.querySelector('.ntkbook-reading'), caption = panel.querySelector('.ntkbook-caption');
    if (!line) return;
    put(panel.querySelector('img.widget-image'), 'alt', [caption ? caption.dataset.title : '', line.textContent]
      .filter(Boolean).join(' '));
    put(line.parentElement, 'role', 'status');
    put(line.parentElement, 'aria-live', 'polite');
    ['role', 'aria-live'].forEach(attribute => line.removeAttribute(attribute));
  };
  new MutationObserver(name).observe(panel, {childList: true, subtree: true});
  name();
})(this.closest('.ntkbook-panel'))
"""

_EMPTY_IMAGE = "data:image/gif;base64,R0lGODlhAQABAIAAAAAAAP///yH5BAEAAAAALAAAAAABAAEAAAIBRAA7"


def names_html() -> str:
    """A piece of HTML that names the parts of the panel in which it stands."""
    script = " ".join(_SCRIPT.split()).replace("&", "&amp;").replace('"', "&quot;")
    return f'<img alt="" style="display:none" src="{_EMPTY_IMAGE}" onload="{script}">'
