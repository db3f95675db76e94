"""The packages of `whisk.system`, one directory each: a `package.toml` and the code of its actions; `deploy.py` installs them."""
