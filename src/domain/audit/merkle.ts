import { hash } from 'node:crypto';

/** Merkle tree hashing of RFC 6962 section 2.1 over SHA-256. All hashes are 32 bytes. */
const LEAF = Buffer.of(0x00);
const NODE = Buffer.of(0x01);

export function sha256(...parts: (Buffer | string)[]): Buffer {
  const [only] = parts;
  const data = parts.length === 1 && only !== undefined ? only : Buffer.concat(parts.map((part) => Buffer.from(part)));
  return hash('sha256', data, 'buffer');
}

/** `SHA256(0x00 ‖ data)`. */
export const leafHash = (data: Buffer | string): Buffer => sha256(LEAF, data);
/** `SHA256(0x01 ‖ left ‖ right)`. */
export const nodeHash = (left: Buffer, right: Buffer): Buffer => sha256(Buffer.concat([NODE, left, right]));

/** Pairing level by level, an odd last node moving up unchanged, gives the same tree as RFC 6962's recursive split. */
function nextLevel(level: readonly Buffer[]): Buffer[] {
  const next: Buffer[] = [];
  for (let i = 0; i < level.length; i += 2) {
    const left = level[i] as Buffer;
    const right = level[i + 1];
    next.push(right ? nodeHash(left, right) : left);
  }
  return next;
}

/** The Merkle tree hash of leaf hashes; of none, the hash of nothing. */
export function merkleRoot(leaves: readonly Buffer[]): Buffer {
  if (leaves.length === 0) return sha256('');
  let level = leaves;
  while (level.length > 1) level = nextLevel(level);
  return level[0] as Buffer;
}

/** A sibling on the way up: the side it stands on, and its hash in hex. */
export interface PathStep {
  side: 'left' | 'right';
  hash: string;
}

/** The audit path of RFC 6962 section 2.1.1 from the leaf at `index` to the root. Throws RangeError without such a leaf. */
export function inclusionPath(leaves: readonly Buffer[], index: number): PathStep[] {
  if (!(index >= 0 && index < leaves.length)) throw new RangeError(`no leaf ${index} among ${leaves.length}`);
  const path: PathStep[] = [];
  let level = leaves;
  for (let at = index; level.length > 1; at >>= 1) {
    const sibling = level[at ^ 1];
    if (sibling) path.push({ side: at % 2 === 1 ? 'left' : 'right', hash: sibling.toString('hex') });
    level = nextLevel(level);
  }
  return path;
}

/**
 * The root a path leads to, or undefined when the path is not one of a tree of `size` leaves at `index`
 * (RFC 9162 section 2.1.3.2): sides and length follow from index and size, so a path cannot claim another place.
 */
export function rootOfPath(leaf: Buffer, index: number, size: number, path: readonly PathStep[]): Buffer | undefined {
  if (!(Number.isInteger(index) && index >= 0 && index < size)) return undefined;
  let result = leaf;
  let used = 0;
  for (let at = index, last = size - 1; last > 0; at >>= 1, last >>= 1) {
    if (at === last && at % 2 === 0) continue;
    const step = path[used++];
    if (step?.side !== (at % 2 === 1 ? 'left' : 'right')) return undefined;
    const sibling = Buffer.from(step.hash, 'hex');
    if (sibling.length !== 32) return undefined;
    result = step.side === 'left' ? nodeHash(sibling, result) : nodeHash(result, sibling);
  }
  return used === path.length ? result : undefined;
}
