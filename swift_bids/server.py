"""What the server of worker processes imports (see workers.py); nothing else imports this."""

import atexit
import logging
import os

# That its cache of fonts cannot be written, where a call ends before it is.
logging.getLogger("matplotlib.font_manager").setLevel(logging.ERROR)

from swift_bids import figures, inference, interfaces  # noqa: E402, F401

# It has nothing to tidy up, and whoever reads the app's output through a pipe waits for its end:
# taking torch apart would be 0.3 s.
atexit.register(os._exit, 0)
