"""Entry point of the command line as a module, for `torchrun -m`."""

from elbos.cli import main

if __name__ == "__main__":
    main()
