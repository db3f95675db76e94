import re


def main(args):
    payload, separator = str(args.get("payload", "")), args.get("separator")
    lines = payload.split(separator) if separator else re.split("\r?\n", payload)
    return {"lines": lines, "payload": args.get("payload", "")}
