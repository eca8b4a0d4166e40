"""``python -m tests.loaders --install``."""

import sys

from tests.loaders import main

sys.exit(main(sys.argv[1:]))
