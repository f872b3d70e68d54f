"""What integration tests share: a container engine, and the servers and hosts in its containers."""

from tests.integration.engine import engine
from tests.integration.hosts import host, host_keys, network
from tests.integration.operators import original
from tests.integration.rgw import rgw, rgw_http, rgw_https

__all__ = ["engine", "host", "host_keys", "network", "original", "rgw", "rgw_http", "rgw_https"]
