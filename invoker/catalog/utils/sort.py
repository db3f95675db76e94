def main(args):
    lines = sorted(args.get("lines") or [], key=str)
    return {"lines": lines, "length": len(lines)}
