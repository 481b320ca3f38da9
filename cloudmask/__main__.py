"""``python -m cloudmask``: the command line."""

from cloudmask.cli import main

main()
