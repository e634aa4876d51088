"""A method on a task: what comes before it, and how its result is evaluated."""
