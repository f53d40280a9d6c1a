"""Pictures with sliders."""

from .controls import Control as Control
from .controls import Range as Range
from .controls import choice as choice
from .controls import powers_of_two as powers_of_two
from .controls import slider as slider
from .controls import toggle as toggle
from .panel import Panel as Panel
