def main(args):
    lines = args.get("lines") or []
    num = args.get("num", 1)
    return {"lines": lines[:num], "num": num}
