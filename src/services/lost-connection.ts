/** What of a `pg` client is used here; `release` is its pool's, and throws when it is called twice. */
interface Client {
  query: (...args: unknown[]) => unknown;
  release?: (destroy?: boolean) => void;
}

/** The statements after whose failure Kysely (0.29) does not release a connection. */
const EDGES = /^(?:begin|start transaction|rollback)\b(?! to)/;

/**
 * Gives a connection that was lost in a transaction back to its pool. Kysely's controlled transactions release it only
 * after a `rollback` that succeeds, which a dead connection refuses, and not after a `begin` that fails: each one lost
 * so would keep its place for ever, and the pool of a process would be gone after some restarts of PostgreSQL.
 */
export function releasable(client: unknown): void {
  const it = client as Client;
  const query = it.query.bind(it);
  it.query = (...args) => {
    const asked = query(...args);
    if (typeof args[0] !== 'string' || !EDGES.test(args[0])) return asked;
    return (asked as Promise<unknown>).catch((error: unknown) => {
      const { release } = it;
      it.release = () => undefined; // its holder may do so too
      release?.(true);
      throw error;
    });
  };
}
