"""``python -m sedarchive`` and the console script."""

from sedarchive.cli.app import main

if __name__ == "__main__":
    main()
