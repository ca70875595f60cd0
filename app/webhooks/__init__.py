"""From the outbox to the receiver: signed, guarded and retried, in a process of its own."""
