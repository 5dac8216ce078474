"""Verifies a webhook's v1 signature with nothing but the standard library."""

import base64
import hashlib
import hmac
import os
import sys
import time
from collections.abc import Mapping

TOLERANCE_S = 300


def verify(secret: str, headers: Mapping[str, str], body: bytes) -> bool:
    """`body` is the bytes as they came; names of `headers` are in lower case."""
    timestamp = headers["webhook-timestamp"]
    if not timestamp.isdecimal() or abs(time.time() - int(timestamp)) > TOLERANCE_S:
        return False
    key = base64.b64decode(secret.removeprefix("whsec_"))
    signed = f"{headers['webhook-id']}.{timestamp}.".encode() + body
    expected = b"v1," + base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest())
    given = headers["webhook-signature"].split(" ")
    return any(hmac.compare_digest(expected, one.encode()) for one in given)


# By hand: WEBHOOK_SECRET=whsec_… WEBHOOK_ID=… WEBHOOK_TIMESTAMP=… WEBHOOK_SIGNATURE=… python3 verify.py < body.json
if __name__ == "__main__":
    names = ("WEBHOOK_ID", "WEBHOOK_TIMESTAMP", "WEBHOOK_SIGNATURE")
    from_environment = {name.lower().replace("_", "-"): os.environ[name] for name in names}
    verified = verify(os.environ["WEBHOOK_SECRET"], from_environment, sys.stdin.buffer.read())
    print("verified" if verified else "not verified")
    sys.exit(0 if verified else 1)
