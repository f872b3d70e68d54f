"""What integration tests share: a container engine, and the servers in its containers."""

from tests.integration.engine import engine
from tests.integration.rgw import rgw, rgw_http, rgw_https

__all__ = ["engine", "rgw", "rgw_http", "rgw_https"]
