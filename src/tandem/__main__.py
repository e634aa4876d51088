"""`python -m tandem` is `tandem`; `accelerate launch -m tandem ...` runs it on many processes."""

import sys

from tandem.cli import main

if __name__ == "__main__":
    sys.exit(main())
