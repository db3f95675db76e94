def main(args):
    rest = dict(args)
    field = rest.pop("$fieldName", None)
    if not isinstance(field, str):
        return {"error": "$fieldName must be given, a string"}
    return {field: rest}
