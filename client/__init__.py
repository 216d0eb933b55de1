"""The on-premise agent: what runs beside the data."""
