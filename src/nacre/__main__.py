"""``python -m nacre`` and the command `nacre`. It imports nothing but Python before it is ready for Ctrl-C."""

import sys


def main() -> None:
    """The command line; Ctrl-C ends it with 130 and without a traceback, also while it is starting."""
    try:
        from nacre.cli.main import main as command_line

        command_line()
    except KeyboardInterrupt:
        print("Interrupted.", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    main()
