"""How programs end that held an engine."""

from __future__ import annotations

import logging
import os
import sys
from typing import NoReturn


def end_process(status: int) -> NoReturn:
    """End at once, all output written.

    Python's own end takes itself apart while threads of the engine (Java's, TensorFlow's) may still call it, and then
    the process dies of that now and then: work that was done would be called failed.
    """
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
