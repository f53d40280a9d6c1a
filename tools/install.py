"""Makes or repairs `.venv` and installs the book into it; called by `tools/setup.sh`, standard library only.

    python tools/install.py notebook        what a reader needs
    python tools/install.py site            what the pages of the book need
    python tools/install.py test            what the checks need as well
    python tools/install.py everything      and the libraries whose models the book can take

The stamp `.venv/ntkbook.json` says what was installed from which versions of pyproject.toml and
constraints.txt. Without it, or with another content, pip runs again; a `.venv` that was interrupted half
way, or whose Python is gone, is made anew. Every failure ends in one sentence that says what to do.
"""

import contextlib
import errno
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SPACE = {"notebook": 1.5e9, "site": 1.6e9, "test": 2.0e9, "everything": 3.5e9}
INCLUDES = {
    "notebook": ("notebook",),
    "site": ("notebook", "site"),
    "test": ("notebook", "site", "test"),
    "everything": ("models", "notebook", "site", "test"),
}

NO_SPACE = ("No space left on device", "Errno 28", "Disk quota exceeded", "Errno 122")
NO_NETWORK = (
    "Temporary failure in name resolution",
    "Name or service not known",
    "nodename nor servname",
    "Network is unreachable",
    "Connection refused",
    "Failed to establish a new connection",
    "Max retries exceeded",
    "Read timed out",
    "timed out",
    "ProxyError",
)


class Failure(Exception):
    """A sentence for the person at the terminal."""


def main(arguments):
    level = arguments[0] if arguments else ""
    if level not in INCLUDES:
        print(f"Expected {', '.join(INCLUDES)}, got {level!r}.", file=sys.stderr)
        return 2
    venv = ROOT / ".venv"
    if "--is-current" in arguments:
        return 0 if is_current(venv, level) else 1
    try:
        with one_at_a_time():
            if not is_current(venv, level):
                install(venv, level)
    except Failure as failure:
        print(failure, file=sys.stderr)
        return 1
    except OSError as error:
        print(sentence_for(error), file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("Interrupted; the next call starts again where it can.", file=sys.stderr)
        return 130
    return 0


def is_current(venv, level):
    """Was this level installed here, from these files?"""
    try:
        stamp = json.loads((venv / "ntkbook.json").read_text())
    except (OSError, ValueError):
        return False
    return set(INCLUDES[level]) <= set(stamp.get("includes", ())) and stamp.get("content") == content()


def content():
    """A digest of what decides the installed versions, and of where: an editable install knows its folder."""
    digest = hashlib.sha256(str(ROOT).encode())
    for name in ("pyproject.toml", "constraints.txt"):
        with contextlib.suppress(FileNotFoundError):
            digest.update((ROOT / name).read_bytes())
    return digest.hexdigest()


def install(venv, level):
    stamp, started = venv / "ntkbook.json", venv / "ntkbook.incomplete"
    before = set()
    with contextlib.suppress(OSError, ValueError):
        before = set(json.loads(stamp.read_text()).get("includes", ()))
    if started.exists() or not starts(venv):
        before = set()
        make(venv, level)
    includes = sorted(before | set(INCLUDES[level]))
    started.touch()
    print(f"Installing ntkbook and what it needs into .venv ({level}); the first time takes minutes ...", flush=True)
    constraints = ROOT / "constraints.txt"
    pinned = ["-c", str(constraints)] if constraints.exists() else []
    pip(venv, ["install", *pinned, "-e", f"{ROOT}[{','.join(includes)}]"])
    stamp.write_text(json.dumps({"includes": includes, "content": content()}) + "\n")
    started.unlink()
    print("Installed.", flush=True)


def starts(venv):
    """Does the environment have a Python of an age that we support, and a pip?"""
    check = "import sys, pip; sys.exit(sys.version_info < (3, 11))"
    try:
        result = subprocess.run([venv / "bin" / "python", "-I", "-c", check], capture_output=True)
    except OSError:
        return False
    return result.returncode == 0


def make(venv, level):
    if venv.exists():
        print("Removing a .venv that is incomplete or whose Python does not start.", flush=True)
        shutil.rmtree(venv)
    free, needed = shutil.disk_usage(ROOT).free, SPACE[level]
    if free < needed:
        raise Failure(
            f"Expected {needed / 1e9:.1f} GB of free disk space for .venv, got {free / 1e9:.1f} GB. "
            "Free some space and call again."
        )
    result = subprocess.run([sys.executable, "-I", "-m", "venv", str(venv)], capture_output=True, text=True)
    if result.returncode:
        said = result.stdout + result.stderr
        shutil.rmtree(venv, ignore_errors=True)
        if any(words in said for words in NO_SPACE):
            raise Failure(full_disk())
        if "ensurepip" in said:
            raise Failure(
                f"Expected a Python that can make virtual environments, got {sys.executable} without ensurepip. "
                "On Debian and Ubuntu: apt-get install python3-venv."
            )
        raise Failure(f"Could not make .venv with {sys.executable}: {last_line(said)}")


def pip(venv, arguments):
    """pip in the environment, its talk shown as one moving line; raises Failure with a sentence."""
    command = [str(venv / "bin" / "python"), "-I", "-m", "pip", "--disable-pip-version-check", "--no-input"]
    # ours decides where things go, not a setting left in the shell; where packages come from stays the user's
    environment = {k: v for k, v in os.environ.items() if k not in ("PIP_USER", "PIP_TARGET", "PIP_PREFIX", "PIP_ROOT")}
    environment.setdefault("PIP_RETRIES", "2")  # of five, so that a missing network is said soon
    said = []
    with subprocess.Popen(
        [*command, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        env=environment,
        cwd=ROOT,
    ) as process:
        for line in process.stdout or ():
            said.append(line.rstrip())
            show(line)
    show("")
    if process.returncode:
        talk = "\n".join(said)
        if any(words in talk for words in NO_SPACE):
            raise Failure(full_disk())
        if any(words in talk for words in NO_NETWORK):
            raise Failure(
                "Could not reach the package index to install what is needed. "
                "Is there a network (and a proxy, if you need one)? Then call again."
            )
        missing = [line.strip() for line in said if "No matching distribution found" in line]
        if missing:
            version = f"{sys.version_info[0]}.{sys.version_info[1]}"
            raise Failure(
                f"pip found no package that fits ({missing[-1]}). "
                f"Is an index switched off (PIP_NO_INDEX), or is Python {version} too new for these packages?"
            )
        raise Failure("pip could not install the packages: " + last_line(talk))


def show(line):
    if sys.stdout.isatty():
        width = shutil.get_terminal_size().columns - 1
        print("\r" + line.strip()[:width].ljust(width), end="\r", flush=True)


def last_line(talk):
    lines = [line.strip() for line in talk.splitlines() if line.strip()]
    errors = [line for line in lines if line.lower().startswith("error")]
    return (errors or lines or ["it said nothing"])[-1]


def sentence_for(error):
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return full_disk()
    return f"Could not prepare .venv: {error}."


def full_disk():
    return (
        f"The disk is full: {shutil.disk_usage(ROOT).free / 1e9:.1f} GB free beside .venv and "
        f"{shutil.disk_usage(tempfile.gettempdir()).free / 1e9:.1f} GB in the temporary folder (TMPDIR). "
        "Free about 2 GB and call again."
    )


@contextlib.contextmanager
def one_at_a_time():
    """Two terminals may call at once; the second waits for the first. The folder itself is the lock."""
    import fcntl

    handle = os.open(ROOT, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            print("Another call is installing; waiting for it ...", flush=True)
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
