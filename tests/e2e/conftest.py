"""One demo for all end-to-end tests."""

from demo_told import told

__all__ = ["told"]
