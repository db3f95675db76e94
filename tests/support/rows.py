"""What the rows of the checklist share: asking for what is granted, and for what is refused and must change nothing."""

CODE = {"exec": {"kind": "python:3", "code": "def main(args): return args"}}


def pairs(**values):
    """Make a list of parameters or annotations; `_` in a name stands for `-`."""
    return [{"key": key.replace("_", "-"), "value": value} for key, value in values.items()]


def as_dict(entries):
    """Read such a list."""
    return {each["key"]: each["value"] for each in entries}


def reference(path, name):
    return {"path": path, "name": name}


async def put(site, path, body=None, *, auth=True):
    """Write an entity, and return what was answered."""
    answered = await site.ask("PUT", path, {} if body is None else body, auth=auth)
    assert answered.status == 200, answered.text
    return answered.json


async def get(site, path, *, auth=True):
    answered = await site.ask("GET", path, auth=auth)
    assert answered.status == 200, answered.text
    return answered.json


async def refuse(site, method, path, body=None, *, status, words, **options):
    """Ask for what is refused; see the status, the sentence, and that no entity has changed and nothing was run."""
    before, calls = site.entities.everything(), len(site.invoker.calls)
    answered = await site.ask(method, path, body, **options)
    assert (answered.status, words in answered.error) == (status, True), answered.text
    assert site.entities.everything() == before
    assert len(site.invoker.calls) == calls
    return answered
