"""The command line as a module: `PYTHONSAFEPATH=1 torchrun -m elbos`."""

from elbos.cli import main

if __name__ == "__main__":
    main()
