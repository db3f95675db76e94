import base64
import json
import os
import urllib.request
from urllib.parse import quote


def main(args):
    n = int(args.get("n", 0))
    print(n)
    if n <= 0:
        print("Happy New Year!")
        return {}
    return {"n": n, "next": invoke(os.environ["__OW_ACTION_NAME"], {"n": n - 1})}


def invoke(action, arguments):
    """Have an action begin, `/ns/[package/]name`; return the id of its activation."""
    _, namespace, path = action.split("/", 2)
    request = urllib.request.Request(
        f"{os.environ['__OW_API_HOST']}/api/v1/namespaces/{quote(namespace)}/actions/{quote(path)}",
        data=json.dumps(arguments).encode(),
        headers={
            "Content-Type": "application/json",
            "Authorization": "Basic " + base64.b64encode(os.environ["__OW_API_KEY"].encode()).decode(),
        },
    )
    with urllib.request.urlopen(request, timeout=30) as response:
        return json.load(response)["activationId"]
