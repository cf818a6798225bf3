"""``python -m paddle_dla``: the console script ``paddle-dla``."""

import sys

from paddle_dla.cli import main

if __name__ == "__main__":
    sys.exit(main())
