"""Alarms: triggers that the clock fires. Schedules are values; one timer serves all of them."""
