"""The hatch between the two rooms: everything that crosses from gateway to worker and back is named here."""
