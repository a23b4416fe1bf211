"""`python -m autolink`, and so `accelerate launch -m autolink train …`."""

from autolink.cli import main

if __name__ == "__main__":
    main()
