"""Groundtune beside what people use today: same machine, same run, same model. `make bench-NAME` runs one."""
