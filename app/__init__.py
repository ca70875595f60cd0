"""The gateway: takes requests over HTTP and puts jobs into the queue. Never imports torch."""

__version__ = "0.1.0"
