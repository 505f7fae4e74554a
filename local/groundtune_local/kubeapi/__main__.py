"""``python -m groundtune_local.kubeapi``: run the local control plane until it is told to stop."""

from __future__ import annotations

import argparse
import asyncio
import base64
import logging
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import uvicorn
import yaml

from groundtune_local.kubeapi.certificates import ServerCertificate, ensure_certificate, write_private
from groundtune_local.kubeapi.reviews import USER
from groundtune_local.kubeapi.server import ControlPlane
from groundtune_local.kubeapi.store import Store, StoreLocked

_HOST = "127.0.0.1"


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m groundtune_local.kubeapi", description=__doc__)
    parser.add_argument("--data-dir", type=Path, required=True, help="where objects are kept")
    parser.add_argument("--port", type=int, required=True, help=f"port to listen on at {_HOST}")
    parser.add_argument(
        "--token-file", type=Path, required=True, help="file with the bearer token clients must send"
    )
    parser.add_argument("--kubeconfig", type=Path, help="write a kubeconfig for this server here")
    parser.add_argument(
        "--history", type=int, default=1000, help="changes of each kind kept for watches to resume"
    )
    return parser.parse_args(argv)


def _kubeconfig(port: int, token: str, certificate: bytes) -> bytes:
    """A kubeconfig that reaches the server."""
    name = "groundtune-local"
    cluster = {
        "server": f"https://{_HOST}:{port}",
        "certificate-authority-data": base64.b64encode(certificate).decode(),
    }
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": name, "cluster": cluster}],
        "users": [{"name": USER, "user": {"token": token}}],
        "contexts": [{"name": name, "context": {"cluster": name, "user": USER, "namespace": "default"}}],
        "current-context": name,
    }
    return yaml.safe_dump(config, sort_keys=False).encode()


class _Server(uvicorn.Server):
    """uvicorn would end the process by the signal it got; here a stop is a success."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


async def _serve(store: Store, port: int, token: str, certificate: ServerCertificate) -> bool:
    control_plane = ControlPlane(store, token)
    config = uvicorn.Config(
        control_plane.app,
        host=_HOST,
        port=port,
        ssl_keyfile=certificate.key,
        ssl_certfile=str(certificate.certificate),
        log_level="warning",
        access_log=False,
        timeout_graceful_shutdown=2,
        timeout_keep_alive=75,
    )
    server = _Server(config)

    def stop() -> None:
        server.should_exit = True
        control_plane.close()

    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop)
    await server.serve()
    return server.started


def main(argv: list[str] | None = None) -> int:
    """Run the server. Exit codes: 0 stopped, 1 failed, 2 bad usage."""
    arguments = _arguments(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    try:
        token = arguments.token_file.read_text(encoding="utf-8").strip()
    except OSError as exc:
        sys.stderr.write(f"--token-file {arguments.token_file}: {exc.strerror}\n")
        return 2
    if not token:
        sys.stderr.write(f"--token-file {arguments.token_file}: is empty, and a token is needed\n")
        return 2
    arguments.data_dir.mkdir(parents=True, exist_ok=True)
    arguments.data_dir.chmod(0o700)  # it holds secrets
    try:
        store = Store(arguments.data_dir / "kubeapi.sqlite3", arguments.history)
    except StoreLocked as exc:
        sys.stderr.write(f"--data-dir {arguments.data_dir}: {exc}\n")
        return 1
    certificate = ensure_certificate(arguments.data_dir, _HOST)
    if arguments.kubeconfig:
        authority = certificate.certificate.read_bytes()
        write_private(arguments.kubeconfig, _kubeconfig(arguments.port, token, authority))
    try:
        return 0 if asyncio.run(_serve(store, arguments.port, token, certificate)) else 1
    finally:
        store.close()


if __name__ == "__main__":
    sys.exit(main())
