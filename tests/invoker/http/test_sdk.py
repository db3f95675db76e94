import gzip
import io
import tarfile


async def test_the_kit_is_served_to_everybody_as_a_gzipped_tar(site):
    async with site.session.get(site.url + "/blackbox.tar.gz") as response:
        assert (response.status, response.headers["Content-Type"]) == (200, "application/gzip")
        packed = await response.read()
    with tarfile.open(fileobj=io.BytesIO(gzip.decompress(packed))) as archive:
        assert {"dockerSkeleton/Dockerfile", "dockerSkeleton/exec", "dockerSkeleton/README.md"} <= set(archive.getnames())


async def test_only_get_is_served(site):
    answer = await site.ask("POST", "/blackbox.tar.gz", auth=False)
    assert (answer.status, answer.headers["Allow"]) == (405, "OPTIONS, GET")
