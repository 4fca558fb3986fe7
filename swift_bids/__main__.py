"""python -m swift_bids, the same as run.py and swift-bids."""

import sys

from swift_bids.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
