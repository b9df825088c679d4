"""``python -m ssmlab`` is the command ``ssmlab``, for where no script of that name is on PATH."""

from ssmlab.cli import main

if __name__ == "__main__":
    main()
