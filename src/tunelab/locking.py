"""Locks of the system on files: whoever holds one, it ends with the process."""

import contextlib
import errno
from collections.abc import Generator
from pathlib import Path

from filelock import FileLock, Timeout

NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)  # of network file systems


@contextlib.contextmanager
def held(path: Path, timeout: float = 0) -> Generator[bool]:
    """Hold a lock file, which stays; False where another process holds it after `timeout` seconds (-1: wait).

    A network file system without locks gives it to everybody.
    """
    lock, mine = FileLock(path, timeout=timeout), True
    try:
        lock.acquire()
    except Timeout:
        mine = False
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
    try:
        yield mine
    finally:
        lock.release()
