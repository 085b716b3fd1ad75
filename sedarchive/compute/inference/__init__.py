"""Tables of what is inferred from windows: fits, phases, events, and laws over runs."""
