"""`python -m p2pweb`."""

from p2pweb.cli import main

main()
