"""Run the command line with `python -m sentei`."""

from sentei.cli import main

main()
