"""What ``script/test`` does once the environment stands: get PostgreSQL where that is possible, then become pytest.

The checks of the code itself (ruff, mypy, import-linter) are tests too, and run first: see ``tests/test_code.py``.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

#: Where Debian keeps the server's programs, which are not on the PATH there.
DEBIAN_SERVERS = "/usr/lib/postgresql"


def main() -> None:
    if not has_postgresql() and os.geteuid() == 0 and shutil.which("apt-get"):
        install_postgresql()
    pytest = [sys.executable, "-m", "pytest", *sys.argv[1:]]
    os.execv(sys.executable, pytest)  # noqa: S606 - pytest takes this program's place, and no shell is wanted


def has_postgresql() -> bool:
    return shutil.which("initdb") is not None or any(Path(DEBIAN_SERVERS).glob("*/bin/initdb"))


def install_postgresql() -> None:
    """Try once; without it the tests that need it are skipped and say so."""
    print("Installing postgresql for the tests of that database ...", flush=True)
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for command in (["apt-get", "update"], ["apt-get", "install", "--yes", "--no-install-recommends", "postgresql"]):
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            print(f"{' '.join(command)} failed, so those tests are skipped: {done.stderr.strip()[-300:]}", flush=True)
            return


if __name__ == "__main__":
    main()
