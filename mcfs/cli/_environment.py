"""Imported before everything else.

numpy's BLAS would start a thread per core, which nothing here uses and fork dislikes. A password in the environment is
taken out of it, so that no program which is started from here gets it.
"""

from __future__ import annotations

import os
from typing import Final

PASSWORD_VARIABLE: Final = "MCFS_PASSWORD"
PASSWORD: Final = os.environb.pop(os.fsencode(PASSWORD_VARIABLE), None)

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
