"""Imported before everything else.

numpy's BLAS would start a thread per core, which nothing here uses and fork dislikes; and as capabilities belong to
threads, each would keep those that `mcfs-serve` had at the start. So one thread is not only the default: what the
environment says of that does not count. A password in the environment is taken out of it, so that no program which is
started from here gets it.
"""

from __future__ import annotations

import os
from typing import Final

PASSWORD_VARIABLE: Final = "MCFS_PASSWORD"
PASSWORD: Final = os.environb.pop(os.fsencode(PASSWORD_VARIABLE), None)

for _variable in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "BLIS_NUM_THREADS"):
    os.environ[_variable] = "1"
