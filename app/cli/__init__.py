"""The command `darkroom`: starts the processes and speaks to a running service."""
