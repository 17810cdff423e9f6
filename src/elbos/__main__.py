"""The command line as a module: `python -m elbos`, `torchrun -m elbos`."""

from elbos.cli import main

if __name__ == "__main__":
    main()
