"""``python -m pcgen`` is ``pcgen``."""

import sys

from pcgen.cli import main

if __name__ == "__main__":
    sys.exit(main())
