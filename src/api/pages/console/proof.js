/**
 * Checks an inclusion proof of the audit log (RFC 6962, RFC 9162 section 2.1.3.2) with the browser's own cryptography:
 * leaf → root → hash of the checkpoint → Ed25519 signature. What the browser cannot do, outside of HTTPS and localhost
 * for one, is `undefined`, neither true nor false. Whether the key is this log's must be known by another way.
 */
const bytesOf = (hex) => Uint8Array.from(hex.match(/../g) ?? [], (pair) => Number.parseInt(pair, 16));
const hexOf = (buffer) => [...new Uint8Array(buffer)].map((byte) => byte.toString(16).padStart(2, '0')).join('');
const base64Of = (text) => Uint8Array.from(atob(text), (character) => character.charCodeAt(0));

const sha256 = (...parts) => {
  const whole = new Uint8Array(parts.reduce((size, part) => size + part.length, 0));
  let at = 0;
  for (const part of parts) {
    whole.set(part, at);
    at += part.length;
  }
  return crypto.subtle.digest('SHA-256', whole).then((digest) => new Uint8Array(digest));
};

const node = (left, right) => sha256(Uint8Array.of(1), left, right);

/** The root that a path leads to, in hex; `undefined` when the path is not one of this place in a tree of this size. */
export async function rootOfPath({ leaf, leaf_index, path }, size) {
  if (!(Number.isInteger(leaf_index) && leaf_index >= 0 && leaf_index < size)) return undefined;
  let result = bytesOf(leaf);
  let used = 0;
  for (let at = leaf_index, last = size - 1; last > 0; at >>= 1, last >>= 1) {
    if (at === last && at % 2 === 0) continue;
    const step = path[used++];
    if (step?.side !== (at % 2 === 1 ? 'left' : 'right')) return undefined;
    const sibling = bytesOf(step.hash);
    if (sibling.length !== 32) return undefined;
    result = step.side === 'left' ? await node(sibling, result) : await node(result, sibling);
  }
  return used === path.length ? hexOf(result) : undefined;
}

/** The hash of a checkpoint: SHA-256 of its canonical JSON (RFC 8785), which for these fields is their sorted JSON. */
export async function hashOfCheckpoint({ created_at, kid, n, previous_hash, root, size }) {
  const text = JSON.stringify({ created_at, kid, n, previous_hash, root, size });
  return hexOf(await sha256(new TextEncoder().encode(text)));
}

async function signatureHolds({ hash, signature, public_key }) {
  try {
    const der = base64Of(public_key.replace(/-----[A-Z ]+-----|\s/g, ''));
    const key = await crypto.subtle.importKey('spki', der, { name: 'Ed25519' }, false, ['verify']);
    return await crypto.subtle.verify({ name: 'Ed25519' }, key, base64Of(signature), bytesOf(hash));
  } catch (error) {
    if (error.name === 'NotSupportedError') return undefined;
    return false;
  }
}

/** `[{text, holds: true|false|undefined}]`. */
export async function checkProof(proof) {
  const { checkpoint } = proof;
  const able = globalThis.crypto?.subtle !== undefined;
  const texts = [
    `The path of ${proof.path.length} leads from the leaf to the root of checkpoint ${checkpoint.n}.`,
    'The checkpoint’s hash is that of its content.',
    `The signature of key ${checkpoint.kid} is over that hash.`,
  ];
  const holds = able
    ? [
        (await rootOfPath(proof, checkpoint.size)) === checkpoint.root,
        (await hashOfCheckpoint(checkpoint)) === checkpoint.hash,
        await signatureHolds(checkpoint),
      ]
    : [undefined, undefined, undefined];
  return texts.map((text, i) => ({ text, holds: holds[i] }));
}
