"""What can go wrong in the demo, as one error whose text says what to do."""

from __future__ import annotations


class DemoFailedError(Exception):
    """The demo cannot go on; the message is for the person at the terminal."""
