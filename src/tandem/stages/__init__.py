"""The verbs that a method is written in: functions that a run does once."""
