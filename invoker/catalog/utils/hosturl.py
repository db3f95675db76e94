import os
from urllib.parse import quote


def main(args):
    host, namespace = os.environ.get("__OW_API_HOST", ""), os.environ.get("__OW_NAMESPACE", "")
    path = str(args.get("path") or "").strip("/")
    if not path:
        return {"url": host}
    name = quote(path)
    if args.get("trigger"):
        return {"url": f"{host}/api/v1/namespaces/{namespace}/triggers/{name}"}
    if args.get("web", True):
        name = name if "/" in name else f"default/{name}"
        extension = f".{args['ext'].lstrip('.')}" if args.get("ext") else ""
        return {"url": f"{host}/api/v1/web/{namespace}/{name}{extension}"}
    return {"url": f"{host}/api/v1/namespaces/{namespace}/actions/{name}"}
