"""What crosses between processes: Task, Report, Progress, and the words they are made of. Needs pydantic alone."""
