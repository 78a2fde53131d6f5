"""Side-by-side runs whose results are kept with the hardware they were measured on."""

import os

os.environ.setdefault("GOMP_SPINCOUNT", "1000")  # as on the command line; before torch is imported
