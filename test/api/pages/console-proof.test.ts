import { createHash, generateKeyPairSync, sign } from 'node:crypto';
import { describe, expect, test } from 'vitest';
import { checkpointHash } from '../../../src/domain/audit/checkpoint.ts';
import { inclusionPath, leafHash, merkleRoot } from '../../../src/domain/audit/merkle.ts';
import type { InclusionProof } from '../../../src/domain/audit/proof.ts';

type Step = { text: string; holds: boolean | undefined };
const { checkProof } = (await import(new URL('../../../src/api/pages/console/proof.js', import.meta.url).href)) as {
  checkProof: (proof: InclusionProof) => Promise<Step[]>;
};

const { publicKey, privateKey } = generateKeyPairSync('ed25519');

/** The proof of one row among `size`, as the API gives it. */
function proofOf(index: number, size: number): InclusionProof {
  const leaves = Array.from({ length: size }, (_, i) => leafHash(`row ${i}`));
  const content = {
    n: 7,
    size,
    root: merkleRoot(leaves).toString('hex'),
    previous_hash: createHash('sha256').update('before').digest('hex'),
    kid: 'a1b2c3d4',
    created_at: '2026-11-20T10:15:30.000Z',
  };
  const hash = checkpointHash(content);
  const signature = sign(null, Buffer.from(hash, 'hex'), privateKey).toString('base64');
  const public_key = publicKey.export({ format: 'pem', type: 'spki' }).toString();
  return {
    event_id: '019a9f3e-6c1d-7cc0-9d1f-2f3a5b7c9d01',
    checkpoint: { ...content, hash, signature, public_key },
    leaf_index: index,
    leaf: leaves[index]?.toString('hex') ?? '',
    path: inclusionPath(leaves, index),
  };
}

const verdict = async (proof: InclusionProof) => (await checkProof(proof)).map(({ holds }) => holds);

describe('the browser’s check of a proof', () => {
  test('agrees with the log for every place in trees of every shape', async () => {
    for (const size of [1, 2, 3, 5, 8, 13])
      for (let index = 0; index < size; index += 1)
        expect(await verdict(proofOf(index, size)), `${index} of ${size}`).toEqual([true, true, true]);
  });

  test('names the step that does not hold', async () => {
    const proof = proofOf(2, 5);
    const { checkpoint, path } = proof;
    const other = '00'.repeat(32);
    expect(await verdict({ ...proof, leaf: other })).toEqual([false, true, true]);
    expect(await verdict({ ...proof, leaf_index: 3 })).toEqual([false, true, true]);
    expect(await verdict({ ...proof, leaf_index: 9 })).toEqual([false, true, true]);
    expect(await verdict({ ...proof, path: path.slice(1) })).toEqual([false, true, true]);
    expect(await verdict({ ...proof, path: [...path, { side: 'left', hash: other }] })).toEqual([false, true, true]);
    expect(await verdict({ ...proof, checkpoint: { ...checkpoint, created_at: '2026-11-20T10:15:31.000Z' } })).toEqual([
      true,
      false,
      true,
    ]);
    expect(await verdict({ ...proof, checkpoint: { ...checkpoint, hash: other } })).toEqual([true, false, false]);
    const stranger = generateKeyPairSync('ed25519').publicKey.export({ format: 'pem', type: 'spki' }).toString();
    expect(await verdict({ ...proof, checkpoint: { ...checkpoint, public_key: stranger } })).toEqual([
      true,
      true,
      false,
    ]);
    expect(await verdict({ ...proof, checkpoint: { ...checkpoint, public_key: 'no key' } })).toEqual([
      true,
      true,
      false,
    ]);
  });
});
