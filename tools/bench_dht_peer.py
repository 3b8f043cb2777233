"""`p2pweb` as anybody runs it, but that it ends with the one who started it.

The end of standard input is the end of the process: so no peer is left behind, whatever becomes of
the bench.
"""

import os
import sys
import threading

from p2pweb.cli import main


def _end_with_parent() -> None:
    sys.stdin.buffer.read()
    os._exit(1)


if __name__ == "__main__":
    threading.Thread(target=_end_with_parent, daemon=True).start()
    main()
