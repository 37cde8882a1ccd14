"""`python -m blinddeblur` is the command `blinddeblur`."""

from blinddeblur.cli import main

if __name__ == "__main__":
    main()
