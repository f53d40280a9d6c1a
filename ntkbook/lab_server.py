"""JupyterLab for the book: on this machine alone, behind a fresh token, and one line instead of a log.

    python lab_server.py LOG [argument of JupyterLab ...]

Run as a file, so that the server does not carry the library.
"""

import os
import secrets
import sys
from pathlib import Path
from typing import Any


def main(log: str, *arguments: str) -> int:
    """Serves until it is interrupted; what Jupyter says goes to the file `log`."""
    terminal = os.dup(2)
    with open(log, "w") as file:
        os.dup2(file.fileno(), 2)
    try:
        server = start(arguments)
    except (Exception, SystemExit) as error:
        sys.stderr.flush()
        os.dup2(terminal, 2)
        print(f"JupyterLab could not start ({_reason(log, error)}). Its log: {log}", file=sys.stderr)
        return 1
    address = f"http://127.0.0.1:{server.port}{server.default_url}?token={server.identity_provider.token}"
    print(f"The book is open at {address} (log: {log}; Ctrl-C stops it)", flush=True)
    server.start()
    return 0


def start(arguments: tuple[str, ...]) -> Any:
    """A server that listens already. A reader's own settings hold, but for the address, the token and the news."""
    from jupyterlab.labapp import LabApp

    settings = [
        "--ServerApp.ip=127.0.0.1",
        # given here, and not on the command line, where every user of the machine could read it
        f"--IdentityProvider.token={secrets.token_hex(24)}",
        # nothing leaves the machine: no look for news or updates
        "--LabApp.news_url=",
        "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate",
    ]
    if getattr(os, "geteuid", lambda: 1)() == 0:
        settings.append("--ServerApp.allow_root=True")  # in a container there is often no other user
    return LabApp.initialize_server([*settings, *arguments])


def _reason(log: str, error: BaseException) -> str:
    """What stopped it: the error itself, or where Jupyter only left, its last words."""
    if isinstance(error, OSError):
        return f"{error}; JUPYTER_RUNTIME_DIR may name another folder"
    if not isinstance(error, SystemExit):
        return f"{type(error).__name__}: {error}"
    lines = Path(log).read_text(errors="replace").strip().splitlines()
    return lines[-1] if lines else f"exit {error.code}"


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
