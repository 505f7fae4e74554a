"""`python -m groundtune_operator`."""

from __future__ import annotations

import asyncio
import logging

from groundtune_operator.main import run


def main() -> None:
    """Run until SIGTERM or SIGINT."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    for name in ("httpx", "kopf.objects", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)
    asyncio.run(run())


if __name__ == "__main__":
    main()
