"""The desk: what a trader sees and steers. It shows state and sends intents; no business rules live here."""
