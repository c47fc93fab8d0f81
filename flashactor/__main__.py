"""``python -m flashactor``: the command line."""

import sys

from flashactor.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
