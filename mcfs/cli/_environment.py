"""Imported before everything else.

numpy's BLAS would start a thread per core, which nothing here uses and fork dislikes.
"""

from __future__ import annotations

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
