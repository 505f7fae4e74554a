"""`python -m groundtune_local` is `groundtune`."""

from groundtune_local.cli import main

main()
