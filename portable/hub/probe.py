"""Whether anything speaks HTTP at an address, found out in the background; reads no answer."""

from __future__ import annotations

import threading
import time
import urllib.error
import urllib.request

SECONDS = 2.0


class Probe:
    """Asks when it is made. A thread, for a name lookup has no timeout of its own."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._reached = False
        self._deadline = time.monotonic() + SECONDS
        self._thread = threading.Thread(target=self._ask, daemon=True)
        self._thread.start()

    @property
    def answered(self) -> bool:
        """Waits until something answers or two seconds after the start have passed."""
        self._thread.join(max(0.0, self._deadline - time.monotonic()))
        return self._reached

    def _ask(self) -> None:
        request = urllib.request.Request(
            self._url, method="HEAD", headers={"User-Agent": "portable"}
        )
        try:
            urllib.request.urlopen(request, timeout=SECONDS).close()
        except urllib.error.HTTPError as error:
            error.close()
        except (OSError, ValueError):
            return
        self._reached = True
