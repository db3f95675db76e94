import urllib.error
import urllib.request


def main(args):
    url = str(args.get("payload") or "")
    if "://" not in url:
        url = f"http://{url}"
    if not url.startswith(("http://", "https://")):
        return {"error": f"{url} is neither http nor https"}
    try:
        with urllib.request.urlopen(url, timeout=10) as response:
            return {"msg": response.read(500_000).decode("utf-8", "replace")}
    except (urllib.error.URLError, OSError, ValueError) as error:
        return {"error": f"{url} cannot be fetched: {error}"}
