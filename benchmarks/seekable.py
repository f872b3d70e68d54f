"""Would sets be read faster, or with fewer bytes, through s3fs?

    pip install -e '.[bench]' && python -m benchmarks.seekable

Reads ten members out of a plain archive in SeaweedFS: by ranges of the index, and through s3fs files with each of its
caches. Counts what was asked for, by a proxy on loopback that reads the Range of every request.
"""

from __future__ import annotations

import io
import os
import re
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from tests.proxy import Proxy, proxy_to
from tests.servers import ACCESS_KEY_ID, SECRET_ACCESS_KEY, seaweedfs

_MEMBERS, _MEMBER, _APART = 10, 100_000, 8 << 20
_BLOCK = 5 << 20
_KEY = "archive.tar"


def main() -> None:
    import s3fs

    content = os.urandom(_MEMBERS * _APART + (4 << 20))
    wanted = [(number * _APART + 4242, _MEMBER) for number in range(_MEMBERS)]
    with tempfile.TemporaryDirectory(prefix="drtool-bench-") as scratch, seaweedfs(Path(scratch)) as server:
        server.store().put(_KEY, io.BytesIO(content))
        with proxy_to(server.port) as proxy:
            store = server.store(endpoint=proxy.url)

            def ranges() -> list[bytes]:
                found = []
                for start, size in wanted:
                    with store.open(_KEY, start=start, size=size) as body:
                        found.append(body.read())
                return found

            _measure("ranges of the index", ranges, content, wanted, proxy)
            for cache in ("none", "readahead", "blockcache", "bytes", "background"):
                files = s3fs.S3FileSystem(
                    key=ACCESS_KEY_ID,
                    secret=SECRET_ACCESS_KEY,
                    endpoint_url=proxy.url,
                    use_listings_cache=False,
                    skip_instance_cache=True,
                )
                with files.open(f"{store.bucket}/{store.prefix}{_KEY}", block_size=_BLOCK, cache_type=cache) as file:

                    def seeks(file: io.BufferedIOBase = file) -> list[bytes]:
                        found = []
                        for start, size in wanted:
                            file.seek(start)
                            found.append(file.read(size))
                        return found

                    _measure(f"s3fs, cache {cache}", seeks, content, wanted, proxy)


def _measure(
    name: str, read: Callable[[], list[bytes]], content: bytes, wanted: list[tuple[int, int]], proxy: Proxy
) -> None:
    proxy.heads.clear()
    begun = time.perf_counter()
    found = read()
    seconds = time.perf_counter() - begun
    asked = [_asked(head, len(content)) for head in proxy.heads if head.startswith(b"GET ")]
    assert found == [content[start : start + size] for start, size in wanted]
    sys.stdout.write(f"{name:<24} {seconds:6.2f} s  {sum(asked) / (1 << 20):6.1f} MiB in {len(asked)} requests\n")


def _asked(head: bytes, whole: int) -> int:
    found = re.search(rb"range: *bytes=(\d+)-(\d*)", head, re.IGNORECASE)
    if not found:
        return whole
    return (int(found[2]) + 1 if found[2] else whole) - int(found[1])


if __name__ == "__main__":
    main()
