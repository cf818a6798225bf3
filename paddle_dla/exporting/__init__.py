"""Exports: a network as files that run without this package. They are written, described, checked and reopened."""
