"""``python -m ichat``: the same as the command ``ichat``."""

from ichat.cli import main

if __name__ == "__main__":
    main()
