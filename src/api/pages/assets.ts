import { createHash } from 'node:crypto';
import { promisify } from 'node:util';
import { gzip } from 'node:zlib';
import type { ApiContext, ApiRouter } from '../router.ts';

const compress = promisify(gzip);

export interface Asset {
  contentType: string;
  /** Called at the first request; what it gives is kept. */
  load: () => Promise<string | Uint8Array<ArrayBuffer>> | string | Uint8Array<ArrayBuffer>;
  /** Seconds that a browser may use it without asking (RFC 9111); without it, it asks each time. */
  maxAge?: number;
}

interface Loaded {
  plain: Uint8Array<ArrayBuffer>;
  zipped: Uint8Array<ArrayBuffer> | undefined;
  etag: string;
}

/** Serves one unchanging file at `path`, compressed where the client takes it, with an ETag that answers 304. */
export function serveAsset(router: ApiRouter, path: string, asset: Asset): void {
  let loading: Promise<Loaded> | undefined;
  router.get(path, async (c) => {
    loading ??= load(asset);
    try {
      return send(c, asset, await loading);
    } catch (error) {
      loading = undefined;
      throw error;
    }
  });
}

async function load(asset: Asset): Promise<Loaded> {
  const content = await asset.load();
  const plain = typeof content === 'string' ? new TextEncoder().encode(content) : content;
  const zipped =
    plain.length > 1024 && /text|json|javascript/.test(asset.contentType)
      ? Uint8Array.from(await compress(plain))
      : undefined;
  return { plain, zipped, etag: `W/"${createHash('sha256').update(plain).digest('base64url').slice(0, 22)}"` };
}

function send(c: ApiContext, asset: Asset, { plain, zipped, etag }: Loaded): Response {
  const headers = {
    ETag: etag,
    'Cache-Control': asset.maxAge === undefined ? 'no-cache' : `public, max-age=${asset.maxAge}`,
    Vary: 'Accept-Encoding',
  };
  const known = (c.req.header('if-none-match') ?? '').split(',').map((tag) => tag.trim().replace(/^(?!W\/)/, 'W/'));
  if (known.includes(etag)) return c.body(null, 304, headers);
  const accepts = (c.req.header('accept-encoding') ?? '')
    .split(',')
    .some((coding) => /^\s*gzip\s*(;(?!\s*q=0(\.0*)?\s*$).*)?$/i.test(coding));
  const zip = zipped !== undefined && accepts;
  return c.body(zip ? zipped : plain, 200, {
    ...headers,
    'Content-Type': asset.contentType,
    ...(zip ? { 'Content-Encoding': 'gzip' } : {}),
  });
}
