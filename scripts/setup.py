"""Make `.venv` with everything in it; `make demo` and `make test` call it. A second run changes nothing.

With --peers, make `.venv-peers`: what the benchmarks compare with, whose pins are not ours.
It runs under whatever python3 there is, so it uses the standard library alone.
"""

import contextlib
import hashlib
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
STAMP = VENV / "groundtune-setup"
TORCH = "torch==2.13.0"
INPUTS = ("pyproject.toml", "constraints.txt", "scripts/overrides.txt", "scripts/setup.py")
FREE_GIB = 12
PEERS = ROOT / ".venv-peers"
PEER_REQUIREMENTS = ROOT / "benchmarks" / "peers" / "requirements.txt"


def main():
    if "--peers" in sys.argv[1:]:
        peers()
    else:
        setup()


def setup():
    if sys.version_info < (3, 11) or sys.version_info >= (3, 14):
        found = ".".join(map(str, sys.version_info[:3]))
        fail(
            "Python 3.11 to 3.13 is needed and %s is %s; run: make PYTHON=python3.11 …"
            % (sys.executable, found)
        )
    if not sys.platform.startswith("linux"):
        fail("the embedded stack runs on Linux; this is %s" % sys.platform)
    wanted = fingerprint()
    if STAMP.is_file() and STAMP.read_text() == wanted:
        return
    check_disk()
    say("Setting up .venv (once; a few minutes, most of it download)")
    if not PYTHON.is_file() and run([sys.executable, "-m", "venv", str(VENV)]) != 0:
        fail("python3 -m venv failed; on Debian and Ubuntu: apt install python3-venv")
    if run([str(PYTHON), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "uv>=0.9"]) != 0:
        fail("pip could not install uv (see above); is the package index reachable?")
    environment, options = index_options()
    install_torch(environment, options, PYTHON)
    command = [
        *uv("pip", "install", "--quiet"),
        *("--editable", "%s[local,dev]" % ROOT),
        *("--override", str(ROOT / "scripts" / "overrides.txt")),
        *("--constraint", str(ROOT / "constraints.txt")),
        *options,
    ]
    if watched(command, environment, "Installing the dependencies") != 0:
        fail("the dependencies could not be installed; the lines above say which and why")
    command = [str(PYTHON), "-m", "groundtune_local.models"]
    if watched(command, environment, "Preparing the small models") != 0:
        fail("the small models could not be prepared; the lines above say why")
    STAMP.write_text(wanted)


def peers():
    python, stamp = PEERS / "bin" / "python", PEERS / "groundtune-setup"
    wanted = hashlib.sha256(PEER_REQUIREMENTS.read_bytes()).hexdigest()
    if stamp.is_file() and stamp.read_text() == wanted:
        return
    say("Setting up .venv-peers")
    if not python.is_file() and run([sys.executable, "-m", "venv", str(PEERS)]) != 0:
        fail("python3 -m venv failed; on Debian and Ubuntu: apt install python3-venv")
    environment, options = index_options()
    install_torch(environment, options, python)
    # Copies: llama-index reads data with nltk, which refuses files that have several names.
    command = [*uv("pip", "install", "--quiet", "--link-mode", "copy", python=python), *options]
    if watched([*command, "--requirement", str(PEER_REQUIREMENTS)], environment, "Installing the peers") != 0:
        fail("the peers could not be installed; the lines above say which and why")
    stamp.write_text(wanted)


def uv(*arguments, python=PYTHON):
    return [str(VENV / "bin" / "uv"), *arguments, "--python", str(python)]


def index_options():
    """pip's configuration in uv's words, as uv does not read it."""
    environment = dict(os.environ)
    options = []
    for key, option in (
        ("index-url", "--default-index"),
        ("extra-index-url", "--index"),
        ("find-links", "--find-links"),
    ):
        for value in pip_setting(key):
            if option == "--index" and value.startswith("file://"):
                continue  # pip passes over a package that such a folder lacks, uv stops
            options += [option, value]
    certificates = pip_setting("cert")
    if certificates:
        environment.setdefault("SSL_CERT_FILE", certificates[0])
    return environment, options


def pip_setting(key):
    from_environment = os.environ.get("PIP_" + key.upper().replace("-", "_"))
    if from_environment:
        return from_environment.split()
    for scope in ("install", "global"):
        asked = subprocess.run(
            [str(PYTHON), "-m", "pip", "config", "get", "%s.%s" % (scope, key)],
            capture_output=True,
            text=True,
        )
        if asked.returncode == 0 and asked.stdout.strip():
            return asked.stdout.split()
    return []


def install_torch(environment, options, python):
    """The CPU build of torch, if it is to be had anywhere: then it is there before anything asks for torch."""
    if subprocess.run([str(python), "-c", "import torch"], capture_output=True).returncode == 0:
        return
    # Alone, as what else the index of CPU builds has is not what the rest is resolved with.
    alone = [*uv("pip", "install", python=python), "--no-deps", "--quiet"]
    say("Looking for the CPU build of torch")
    if quiet([*alone, *options, TORCH + "+cpu"], environment):
        return
    if quiet([*alone, "--torch-backend", "cpu", TORCH], environment):
        return
    say("No CPU build of torch is to be had here: taking the default one, with about 3 GB of GPU libraries")


def check_disk():
    free = shutil.disk_usage(ROOT).free / 2**30
    if free < FREE_GIB and not PYTHON.is_file():
        fail(
            "%.1f GiB are free on the disk of %s and %d are needed; free some or clone elsewhere"
            % (free, ROOT, FREE_GIB)
        )


def fingerprint():
    digest = hashlib.sha256(sys.version.encode() + str(ROOT).encode())
    for name in INPUTS:
        digest.update((ROOT / name).read_bytes())
    return digest.hexdigest()


def run(command, environment=None):
    return subprocess.run(command, env=environment).returncode


def watched(command, environment, title):
    """Run it, and say how far it is: seconds, and what the disk has taken up since."""
    began, free = time.monotonic(), shutil.disk_usage(ROOT).free
    live = sys.stdout.isatty()
    say(title)
    process = subprocess.Popen(command, env=environment)
    told = 0
    while True:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=1)
        seconds = int(time.monotonic() - began)
        taken = max(0.0, (free - shutil.disk_usage(ROOT).free) / 1e9)
        ended = process.returncode is not None
        if ended or live or seconds - told >= 30:
            told = seconds
            text = "  %d:%02d" % (seconds // 60, seconds % 60)
            if taken >= 0.1:
                text += ", %.1f GB on the disk" % taken
            print(("\r" if live else "") + text, end="" if live and not ended else "\n", flush=True)
        if ended:
            return process.returncode


def quiet(command, environment):
    return subprocess.run(command, env=environment, capture_output=True).returncode == 0


def say(text):
    print("· " + text, flush=True)


def fail(text):
    sys.exit("Error: " + text)


if __name__ == "__main__":
    main()
