"""Benches: each scenario measures one promise and prints one line of JSON. `python -m bench` lists them."""
