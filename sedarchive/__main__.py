"""``python -m sedarchive`` and the console script."""


def main() -> None:
    """Run the command line. Its imports take a while, so Ctrl-C is seen to before they begin."""
    from sedarchive.cli.interrupts import leave_at_once

    leave_at_once()
    from sedarchive.cli.app import main as run

    run()


if __name__ == "__main__":
    main()
