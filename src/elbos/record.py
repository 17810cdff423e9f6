"""`python -m elbos.record SCRIPT.py FLAGS`: `elbos record` for launchers that start modules."""

import sys

from elbos.cli import main

if __name__ == "__main__":
    sys.argv[1:1] = ["record"]
    main()
