def main(args):
    for name, value in args.items():
        print(f"{name}: {value}")
    return {}
