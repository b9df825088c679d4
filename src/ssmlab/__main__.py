"""``python -m ssmlab`` is the command ``ssmlab``, also where no script of that name is on the PATH."""

from ssmlab.cli import main

if __name__ == "__main__":
    main()
