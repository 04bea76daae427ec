"""The door of `python -m happened`: the same command line as `happened`."""

import sys

from happened.edge.main import main

if __name__ == "__main__":
    sys.exit(main())
