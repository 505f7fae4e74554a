"""One stack on one machine: its folder, its ports, its secrets, and what other programs need to reach it."""

from __future__ import annotations

import json
import os
import secrets
import socket
from dataclasses import asdict, dataclass
from pathlib import Path
from urllib.parse import quote

_PORTS = ("postgres", "prefect", "kubeapi", "serve", "ray_dashboard", "operator")

#: Marks every process of a stack, so that none can be left behind whatever happens to its parent.
MARKER = "GROUNDTUNE_STACK"


class StackError(Exception):
    """One clear line that says what to do."""


def default_data_dir() -> Path:
    """`$GROUNDTUNE_DATA`, else `~/.local/share/groundtune`."""
    return Path(
        os.environ.get("GROUNDTUNE_DATA") or Path.home() / ".local" / "share" / "groundtune"
    ).resolve()


@dataclass(frozen=True)
class Stack:
    """Facts of a stack, kept in `stack.json` so that a second start finds the same ports and passwords."""

    data: Path
    ports: dict[str, int]
    password: str
    token: str
    context: str | None = None

    @classmethod
    def open(cls, data: Path, context: str | None = None) -> Stack:
        """The stack in `data`, made if there is none.

        Raises:
            StackError: the folder can't be used.
        """
        data = data.resolve()
        try:
            data.mkdir(parents=True, exist_ok=True)
            data.chmod(0o700)
        except OSError as error:
            raise StackError(
                f"--data-dir {data}: {error.strerror}; choose a folder that you can write to"
            ) from error
        if cls.recorded(data):
            known = cls.load(data)
            stack = cls(data, known.ports, known.password, known.token, context)
        else:
            ports = dict(zip(_PORTS, _free_ports(len(_PORTS)), strict=True))
            stack = cls(data, ports, secrets.token_urlsafe(24), secrets.token_hex(32), context)
        stack.save()
        return stack

    @staticmethod
    def recorded(data: Path) -> bool:
        """Whether a stack was ever started in `data`."""
        return (data / "stack.json").is_file()

    @classmethod
    def load(cls, data: Path) -> Stack:
        """The stack recorded in `data`.

        Raises:
            StackError: there is none.
        """
        try:
            facts = json.loads((data / "stack.json").read_text(encoding="utf-8"))
        except OSError:
            raise StackError(f"no stack in {data}; start one with: groundtune up --data-dir {data}") from None
        return cls(data=data, **{key: facts[key] for key in ("ports", "password", "token", "context")})

    def save(self) -> None:
        facts = asdict(self) | {"data": str(self.data)}
        write_private(self.data / "stack.json", json.dumps(facts, indent=1))

    def with_free_ports(self, names: list[str]) -> Stack:
        """The stack with other ports for the named parts, because theirs have been taken meanwhile."""
        return Stack(
            self.data,
            self.ports | dict(zip(names, _free_ports(len(names)), strict=True)),
            self.password,
            self.token,
            self.context,
        )

    def folder(self, name: str) -> Path:
        """A folder of the stack's, made if need be."""
        path = self.data / name
        path.mkdir(parents=True, exist_ok=True)
        return path

    @property
    def kubeconfig(self) -> Path:
        return self.data / "kubeconfig"

    @property
    def token_file(self) -> Path:
        return self.data / "token"

    @property
    def prefect_url(self) -> str:
        return f"http://127.0.0.1:{self.ports['prefect']}"

    @property
    def serve_url(self) -> str:
        return f"http://127.0.0.1:{self.ports['serve']}"

    @property
    def dashboard_url(self) -> str:
        return f"http://127.0.0.1:{self.ports['ray_dashboard']}"

    def database_url(self, user: str = "postgres", role: str | None = None) -> str:
        """URL for a login; `role` is what it acts as."""
        options = f"?options={quote(f'-c role={role}')}" if role else ""
        return f"postgresql://{user}:{self.password}@127.0.0.1:{self.ports['postgres']}/groundtune{options}"

    def environment(self, role: str) -> dict[str, str]:
        """Environment of a part that acts as `role` on the database."""
        return {
            MARKER: str(self.data),
            "GROUNDTUNE_DATABASE_URL": self.database_url(f"{role}_login", role),
            "GROUNDTUNE_ARTIFACTS": str(self.folder("artifacts")),
            "GROUNDTUNE_VOLUMES": str(self.folder("volumes")),
            "GROUNDTUNE_CONFIG_MAPS": str(self.folder("configmaps")),
            "GROUNDTUNE_SECRETS": str(self.folder("secrets")),
            "GROUNDTUNE_SOURCES": str(self.folder("sources")),
            "PREFECT_API_URL": f"{self.prefect_url}/api",
            "GROUNDTUNE_RAY_DASHBOARD_URL": self.dashboard_url,
            "GROUNDTUNE_SERVE_URL": self.serve_url,
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": self.token,
            "KUBECONFIG": str(self.kubeconfig),
            # Training, embedding and the engine share the cores: a thread that waits spins for microseconds, not for
            # milliseconds. Not at all would cost more: layers of small models end within microseconds of each other.
            "GOMP_SPINCOUNT": "20000",
        }


def write_private(path: Path, text: str) -> None:
    """Replace a file with one that only its owner can read."""
    building = path.with_name(f".{path.name}.{os.getpid()}")
    with os.fdopen(
        os.open(building, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8"
    ) as file:
        file.write(text)
    building.replace(path)


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [int(one.getsockname()[1]) for one in sockets]
    finally:
        for one in sockets:
            one.close()


def port_is_free(port: int) -> bool:
    """Whether a server could listen there now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True
