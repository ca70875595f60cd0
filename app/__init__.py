"""The gateway: takes wishes over HTTP and hands them on. Never imports torch."""

__version__ = "0.1.0"
