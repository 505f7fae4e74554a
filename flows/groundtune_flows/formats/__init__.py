"""From bytes of many formats to text with a structure that chunks can follow."""

from groundtune_flows.formats.text import DOCUMENTS, Form, Text, parse

__all__ = ["DOCUMENTS", "Form", "Text", "parse"]
