import os


def main(args):
    return {"namespace": os.environ.get("__OW_NAMESPACE", "")}
