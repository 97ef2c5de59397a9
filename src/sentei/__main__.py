"""Run the command line: as `python -m sentei`, or as the program `sentei`."""

import sys


def main() -> None:
    """Run the command line; Ctrl-C while it is imported is handled here, later by itself."""
    try:
        from sentei import cli
    except KeyboardInterrupt:
        sys.stderr.write("sentei: stopped. Nothing was written.\n")
        sys.exit(130)
    cli.main()


if __name__ == "__main__":
    main()
