"""Where a peer gets the date and its random bytes from: arguments, never module globals.

Monotonic time is the running event loop's own `loop.time()`, so a simulated loop brings its own.
The date and the entropy are passed in as the two callables below; `node` chooses the real ones.
"""

from collections.abc import Callable

WallClock = Callable[[], float]
"""Seconds since the Unix epoch, as `time.time`. May jump: never measure a duration with it."""

Entropy = Callable[[int], bytes]
"""As many unpredictable bytes as asked for, as `os.urandom`."""
