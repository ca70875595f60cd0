"""What crosses between gateway, workers and clients: parameters, records, cards, events. Knows no Redis."""
