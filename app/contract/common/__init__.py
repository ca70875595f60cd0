"""What every process needs: logs, exit codes, environment variables, traces."""
