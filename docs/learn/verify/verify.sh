#!/usr/bin/env bash
# Verifies a webhook's v1 signature with bash and openssl. For a look by hand: openssl has the key among its arguments.
# WEBHOOK_SECRET=whsec_… WEBHOOK_ID=… WEBHOOK_TIMESTAMP=… WEBHOOK_SIGNATURE=… bash verify.sh < body.json
set -euo pipefail

fail() {
  echo "not verified: $1" >&2
  exit 1
}

[[ $WEBHOOK_TIMESTAMP =~ ^[0-9]{1,12}$ ]] || fail 'no timestamp'
off=$(($(date +%s) - 10#$WEBHOOK_TIMESTAMP))
((off <= 300 && off >= -300)) || fail 'the timestamp is more than 5 minutes off'

key=$(printf %s "${WEBHOOK_SECRET#whsec_}" | openssl base64 -d -A | od -An -v -tx1 | tr -d ' \n')
expected=$({ printf '%s.%s.' "$WEBHOOK_ID" "$WEBHOOK_TIMESTAMP" && cat; } |
  openssl dgst -sha256 -mac HMAC -macopt "hexkey:$key" -binary | openssl base64 -A)

read -ra given <<<"$WEBHOOK_SIGNATURE" || true
for one in "${given[@]}"; do
  [[ $one == "v1,$expected" ]] && echo verified && exit 0
done
fail 'no signature fits'
