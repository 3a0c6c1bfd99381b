"""Files behind a URL: listed, and read through a cache on this machine."""

from t2x_core.remote.url import Url, is_url, public_url, url_name

__all__ = ["Url", "is_url", "public_url", "url_name"]
