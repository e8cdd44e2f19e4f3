"""When the next request may go out: a rate limit, and the pause that a server asked for.

One pace is shared by all threads of a judge, so that a `Retry-After` answered to one of them holds
back the others too, instead of each of them running into the same wall.
"""

import email.utils
import threading
import time


class Pace:
    """The gate that every request passes."""

    def __init__(self, per_minute: float | None) -> None:
        """Sets the rate: requests a minute, or None for as fast as they come."""
        self._interval = 60.0 / per_minute if per_minute else 0.0
        self._next = 0.0
        self._lock = threading.Lock()

    def wait(self, stopped: threading.Event) -> None:
        """Sleeps until it is this request's turn, or all waiting is ended."""
        with self._lock:
            turn = max(time.monotonic(), self._next)
            self._next = turn + self._interval
        stopped.wait(max(0.0, turn - time.monotonic()))

    def hold(self, seconds: float) -> None:
        """Lets no request out for a while."""
        with self._lock:
            self._next = max(self._next, time.monotonic() + seconds)


def retry_after(header: str | None) -> float | None:
    """Seconds that a `Retry-After` header asks for, as a number or as a date (RFC 9110, 10.2.3).

    None where there is no header, or it is neither.
    """
    if header is None:
        return None
    try:
        if header.strip().isdigit():
            return float(header)
        return max(0.0, email.utils.parsedate_to_datetime(header).timestamp() - time.time())
    except (ValueError, OverflowError):  # the latter for a year of eleven digits
        return None
