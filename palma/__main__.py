"""`python -m palma` is `palma`."""

from palma.cli import main

if __name__ == "__main__":
    main()
