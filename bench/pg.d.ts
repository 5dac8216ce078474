/** The little of `pg` that the baselines use; the package, which the ORM stands on, brings no types. */
declare module 'pg' {
  interface QueryResult<Row> {
    rows: Row[];
    rowCount: number | null;
  }
  interface Queryable {
    query<Row = Record<string, unknown>>(
      text: string | { name?: string; text: string; values?: unknown[] },
      values?: unknown[],
    ): Promise<QueryResult<Row>>;
    end(): Promise<void>;
  }
  class Client implements Queryable {
    constructor(options: { connectionString: string });
    connect(): Promise<void>;
    query: Queryable['query'];
    end(): Promise<void>;
  }
  class Pool implements Queryable {
    constructor(options: { connectionString: string; max: number });
    query: Queryable['query'];
    end(): Promise<void>;
  }
  const pg: { Client: typeof Client; Pool: typeof Pool };
  export default pg;
  export type { Client, Pool, Queryable, QueryResult };
}
