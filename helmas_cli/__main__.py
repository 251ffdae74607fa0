"""`python -m helmas_cli` is `helmas`."""

import sys

from helmas_cli.app import main

if __name__ == "__main__":
    sys.exit(main())
