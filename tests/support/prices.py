"""A price plan that costs nothing but an amount for each activation."""

#: To be formatted with `name` and `invocation`, EUR.
PLAN = """
[[plan]]
id = "{name}"
version = "1"
currency = "EUR"
valid_from = 2021-01-01T00:00:00Z
memory_gib_s = "0"
cpu_s = "0"
invocation = "{invocation}"
idle_gib_s = "0"
step_ms = 1
minimum_ms = 0
bill_init = true
places = 9
rounding = "half-even"
"""
