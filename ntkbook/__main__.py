"""`python -m ntkbook`: the command `ntkbook`, also where its script cannot be started."""

import sys

from .cli import main

sys.exit(main())
