import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { inclusionPath, leafHash, merkleRoot, nodeHash, rootOfPath } from '../../../src/domain/audit/merkle.ts';

// The reference data of certificate-transparency, merkletree/merkle_tree_test.cc.
const DATA = ['', '00', '10', '2021', '3031', '40414243', '5051525354555657', '606162636465666768696a6b6c6d6e6f'];
const ROOTS = [
  'e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855',
  '6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d',
  'fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125',
  'aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77',
  'd37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7',
  '4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4',
  '76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef',
  'ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c',
  '5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328',
];
const leaves = DATA.map((hex) => leafHash(Buffer.from(hex, 'hex')));

/** RFC 6962 section 2.1, as written there: split at the largest power of two below n. */
function recursiveRoot(all: Buffer[]): Buffer {
  if (all.length <= 1) return all[0] ?? merkleRoot([]);
  let k = 1;
  while (k * 2 < all.length) k *= 2;
  return nodeHash(recursiveRoot(all.slice(0, k)), recursiveRoot(all.slice(k)));
}

describe('RFC 6962 tree', () => {
  it.each(ROOTS.map((root, size) => ({ size, root })))('root of $size leaves', ({ size, root }) => {
    expect(merkleRoot(leaves.slice(0, size)).toString('hex')).toBe(root);
  });

  it('the reference audit path of leaf 0 among 8', () => {
    expect(inclusionPath(leaves, 0)).toEqual([
      { side: 'right', hash: '96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7' },
      { side: 'right', hash: '5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e' },
      { side: 'right', hash: '6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4' },
    ]);
  });

  it('equals the recursive definition, and every leaf has a path that leads to the root and to no other place', () => {
    fc.assert(
      fc.property(fc.integer({ min: 1, max: 130 }), fc.nat(), (size, at) => {
        const all = Array.from({ length: size }, (_, i) => leafHash(`leaf ${i}`));
        const root = recursiveRoot(all);
        expect(merkleRoot(all)).toEqual(root);
        const index = at % size;
        const path = inclusionPath(all, index);
        expect(rootOfPath(all[index] as Buffer, index, size, path)).toEqual(root);
        for (const other of [index - 1, index + 1, index + size]) {
          expect(rootOfPath(all[index] as Buffer, other, size, path)).not.toEqual(root);
        }
        expect(rootOfPath(all[index] as Buffer, index, size, [...path, ...path.slice(0, 1)]) ?? 'none').toEqual(
          path.length === 0 ? root : 'none',
        );
      }),
      { numRuns: 60 },
    );
  });

  it('has no path beyond its leaves', () => {
    expect(() => inclusionPath(leaves, 8)).toThrow(RangeError);
    expect(rootOfPath(leaves[0] as Buffer, 0, 0, [])).toBeUndefined();
  });
});
