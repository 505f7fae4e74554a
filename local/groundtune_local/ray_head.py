"""A Ray cluster of one node with Serve on it, in the foreground: what `ray start` is for clusters of many.

It leaves out what one machine has no use for (the client server, the autoscaler's monitor), and gives Serve its
port before any application can choose another.
"""

from __future__ import annotations

import argparse
import os
import signal
import threading
from pathlib import Path


def main() -> None:
    """Run until SIGTERM."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--dashboard-port", type=int, required=True)
    parser.add_argument("--serve-port", type=int, required=True)
    arguments = parser.parse_args()
    stop = threading.Event()

    import ray
    from ray import serve

    ray.init(
        address="local",
        # Replicas ask for a share of these; what shares the machine with them is not Ray's to know.
        num_cpus=max(4, os.cpu_count() or 1),
        object_store_memory=128 * 2**20,
        include_dashboard=True,
        dashboard_host="127.0.0.1",
        dashboard_port=arguments.dashboard_port,
        log_to_driver=False,
        _node_ip_address="127.0.0.1",
        _temp_dir=str(arguments.folder),
    )
    serve.start(proxy_location="HeadOnly", http_options={"host": "127.0.0.1", "port": arguments.serve_port})
    for number in (signal.SIGTERM, signal.SIGINT):  # after Ray has set its own handlers
        signal.signal(number, lambda *_: stop.set())
    stop.wait()
    # Engines end by themselves first: a Ray that is stopped under them waits for its own time-outs.
    serve.shutdown()
    ray.shutdown()


if __name__ == "__main__":
    main()
