"""The contract between gateway and worker: all that crosses from one to the other and back."""
