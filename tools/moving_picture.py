"""Makes the moving picture of the README from a panel: `make picture`.

    python tools/moving_picture.py [PANEL CONTROL]

The slider goes from its low end to its high end and back; the frames are what the panel draws.
"""

import io
import sys
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from ntkbook.panels import PANELS

ROOT = Path(__file__).resolve().parent.parent
TARGET = ROOT / "docs" / "ntkbook.gif"
DEFAULT = ("sine_ensemble", "t")
FRAMES, WIDTH, COLOURS, MILLISECONDS, STRIP, LIMIT = 30, 860, 48, 110, 44, 2_000_000


def main(words):
    name, control = words if len(words) == 2 else DEFAULT
    panel = PANELS[name]()
    frames = [frame(panel, control, value) for value in stops(panel.definitions[control])]
    TARGET.parent.mkdir(exist_ok=True)
    there_and_back = frames + frames[-2:0:-1]
    there_and_back[0].save(
        TARGET, save_all=True, append_images=there_and_back[1:], duration=MILLISECONDS, loop=0, optimize=True
    )
    size = TARGET.stat().st_size
    print(f"{TARGET.relative_to(ROOT)}: {len(there_and_back)} frames, {size / 1e6:.2f} MB")
    if size >= LIMIT:
        print(f"Expected less than {LIMIT / 1e6:.0f} MB, got {size / 1e6:.2f} MB: fewer frames?", file=sys.stderr)
        return 1
    return 0


def stops(control):
    """At most FRAMES values from the low to the high end, as the slider would take them."""
    count = min(FRAMES, control.steps + 1)
    return [control.value_at(round(i * control.steps / (count - 1))) for i in range(count)]


def frame(panel, control, value):
    panel.set(**{control: value})
    drawn = Image.open(io.BytesIO(panel.png())).convert("RGBA")
    height = round(drawn.height * WIDTH / drawn.width)
    drawn = drawn.resize((WIDTH, height), Image.Resampling.LANCZOS)
    page = Image.new("RGBA", (WIDTH, height + STRIP), "white")
    page.alpha_composite(drawn)
    draw_slider(ImageDraw.Draw(page), panel.definitions[control], panel.state()[control], height)
    return page.convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE)


def draw_slider(draw, control, value, top):
    """The control under the picture: its label, the handle where it stands, the value."""
    middle, left, right = top + STRIP // 2, 220, WIDTH - 160
    font = ImageFont.load_default(size=18)
    handle = left + (right - left) * control.index_of(value) / control.steps
    draw.line([(left, middle), (right, middle)], fill="#999999", width=4)
    draw.line([(left, middle), (handle, middle)], fill="#0072B2", width=4)
    draw.ellipse([handle - 9, middle - 9, handle + 9, middle + 9], fill="white", outline="#0072B2", width=3)
    draw.text((left - 20, middle), control.label, fill="#333333", font=font, anchor="rm")
    draw.text((right + 24, middle), f"{value:.4g} {control.unit}".strip(), fill="#333333", font=font, anchor="lm")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
