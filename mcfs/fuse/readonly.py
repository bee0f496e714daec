"""What mcfs does not do: every request to change something is answered with EROFS.

The mount itself is read-only, so the kernel refuses nearly all of these before they get here.
"""

from __future__ import annotations

import errno
from typing import NoReturn

from pyfuse3 import FUSEError, Operations


class ReadOnly(Operations):
    async def _refuse(self, *_args: object, **_keywords: object) -> NoReturn:
        raise FUSEError(errno.EROFS)

    create = _refuse
    link = _refuse
    mkdir = _refuse
    mknod = _refuse
    removexattr = _refuse
    rename = _refuse
    rmdir = _refuse
    setattr = _refuse
    setxattr = _refuse
    symlink = _refuse
    unlink = _refuse
    write = _refuse
