"""One rank: its process, its heartbeat, and what it does from the Task to its Outcome."""
