"""Web actions: an action behind a plain URL, without credentials. Parsing and rendering are pure; `handler.py` connects them."""
