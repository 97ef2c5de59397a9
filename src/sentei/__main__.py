"""`python -m sentei`."""

from sentei.cli import main

main()
