"""The command line of Image-to-Video Studio. Everything it does stands in `studio.cli`."""

import sys

from studio.cli import main

if __name__ == "__main__":
    sys.exit(main())
