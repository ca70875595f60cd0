"""Calls to addresses that a caller named: which of them may be dialled, and how."""
