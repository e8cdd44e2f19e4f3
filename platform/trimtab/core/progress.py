"""What long work is given to say how far it is; the room that shows it is `cli`."""

from collections.abc import Callable

Report = Callable[[str, int, int], None]
"""Told (stage, done, of)."""
