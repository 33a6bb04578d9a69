"""``python -m magi`` is ``magi``."""

import sys

from magi.cli import main

sys.exit(main())
