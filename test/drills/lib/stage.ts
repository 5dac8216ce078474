import { sql } from 'kysely';
import { type Database, openDatabase } from '../../../src/services/database.ts';
import { pause } from '../../../src/services/service.ts';
import { type SmtpSink, startSmtpSink } from '../../smtp-sink.ts';
import { ADMIN, Cluster, type Layout } from './cluster.ts';
import { Load } from './load.ts';
import { examine, type Findings, isSettled, isTabled } from './reconcile.ts';
import type { Row } from './report.ts';
import { STUMBLES, Subscriber } from './subscriber.ts';
import { eventually } from './wait.ts';

/** What a drill leaves to be settled, once what it broke is whole again. */
export interface Outcome {
  load: Load;
  drill: string;
  what: string;
  /** Seconds until everything worked again; `settled`: until the last of what was accepted had arrived; null: nothing was away. */
  recovered: number | 'settled' | null;
  problems: string[];
  /** What else is found to be wrong once everything has arrived. */
  afterwards?: () => Promise<string[]>;
}

/** Everything that has a part in a drill: a cluster, its subscribers and its mail server. */
export class Stage {
  readonly cluster: Cluster;
  readonly sink: SmtpSink;
  readonly database: Database;
  /** Takes everything at once. */
  readonly steady = new Subscriber('steady');
  /** Answers 500 to the first try of each second event, so that half of all also wait for a retry. */
  readonly stumbling = new Subscriber('stumbling', STUMBLES);
  readonly report: (line: string) => void;
  #token = '';
  readonly #loads: Load[] = [];

  private constructor(cluster: Cluster, sink: SmtpSink, database: Database, report: (line: string) => void) {
    this.cluster = cluster;
    this.sink = sink;
    this.database = database;
    this.report = report;
  }

  static async start(options: {
    layout: Layout;
    proxied?: boolean;
    clocks?: boolean;
    report?: (line: string) => void;
  }): Promise<Stage> {
    const report = options.report ?? (() => undefined);
    const sink = await startSmtpSink();
    let cluster: Cluster;
    try {
      cluster = await Cluster.start({ ...options, smtpUrl: sink.url, report });
    } catch (error) {
      await sink.close();
      throw error;
    }
    const database = await openDatabase(cluster.databaseUrl, { entities: [], poolSize: 4, applicationName: 'drill' });
    const stage = new Stage(cluster, sink, database, report);
    try {
      await stage.signIn();
      for (const subscriber of stage.subscribers) await stage.#subscribe(subscriber);
      await stage.probe(20_000);
      return stage;
    } catch (error) {
      await stage.close();
      throw error;
    }
  }

  get subscribers(): Subscriber[] {
    return [this.steady, this.stumbling];
  }

  /** Signs the administrator in; the token lasts 15 min, so a long drill does it again. */
  async signIn(): Promise<void> {
    const { access_token } = await this.#call<{ access_token: string }>('/auth/login', ADMIN);
    this.#token = access_token;
  }

  /** The administrator's access token. */
  get token(): string {
    return this.#token;
  }

  load(): Load {
    const load = new Load(this.cluster.api.url, () => this.#token);
    this.#loads.push(load);
    return load;
  }

  /** Until a new event has been accepted and has reached the steady subscriber; resolves with the seconds it took. */
  async probe(ms: number): Promise<number> {
    const load = this.load();
    try {
      const { seconds } = await eventually(
        'a new event is accepted and delivered',
        async () => {
          const id = `${load.prefix}-p${load.events.size}`;
          if ((await load.publish(id)) !== 'accepted') return false;
          return eventually('', () => this.steady.arrivals.has(id), 2000, 25).catch(() => false);
        },
        ms,
      );
      return seconds;
    } finally {
      await load.close();
    }
  }

  /** Examines until nothing is owed any more, for `ms` at the longest; resolves with the last findings. */
  async settle(load: Load, ms: number): Promise<Findings & { seconds: number }> {
    const began = performance.now();
    for (;;) {
      const findings = await examine(load, this);
      const elapsed = performance.now() - began;
      if (isSettled(findings) || elapsed > ms) return { ...findings, seconds: elapsed / 1000 };
      await pause(300);
    }
  }

  /** Until nothing of the load lies in RabbitMQ or the outbox any more: what is still owed is owed by a row. */
  async tabled(load: Load, ms: number): Promise<void> {
    await eventually(
      'everything accepted is in its table',
      () => isTabled(load, this.database, this.subscribers.length),
      ms,
    );
  }

  /** Settles what a drill has begun and makes its row of the report. */
  async row({ load, ...drill }: Outcome, settleMs = 60_000): Promise<Row> {
    const findings = await this.settle(load, settleMs);
    await load.close();
    return {
      drill: drill.drill,
      what: drill.what,
      accepted: load.count('accepted'),
      refused: load.count('refused'),
      unknown: load.count('unknown'),
      delivered: findings.delivered,
      duplicates: findings.duplicates,
      lost: findings.lost.length,
      recovered: drill.recovered === 'settled' ? findings.seconds : drill.recovered,
      problems: [
        ...drill.problems,
        ...((await drill.afterwards?.()) ?? []),
        ...findings.lost.slice(0, 5).map((it) => `lost: ${it}`),
        ...findings.half.slice(0, 5).map((it) => `half done: ${it}`),
        ...findings.doubled.slice(0, 5).map((it) => `done twice: ${it}`),
        ...(findings.open > 0 ? [`${findings.open} rows are still open`] : []),
        ...this.subscribers.flatMap(({ name, faults }) => faults.slice(0, 2).map((it) => `${name} refused ${it}`)),
        ...this.cluster.crashes,
        ...(load.hung > 0 ? [`${load.hung} requests hung`] : []),
      ],
    };
  }

  /** The ids of all rows that wait for an alarm now, leased ones left out: an alarm of theirs is ringing. */
  async waiting(): Promise<string[]> {
    const { rows } = await sql<{ id: string }>`
      select id from webhook_deliveries where status = 'pending' and (lease_until is null or lease_until < now())
      union all select id from emails where status = 'pending' and (lease_until is null or lease_until < now())`.execute(
      this.database.em.fork().getKysely(),
    );
    return rows.map(({ id }) => id);
  }

  /** Those of `ids` that wait and have no alarm in Redis. */
  async withoutAlarm(ids: string[], redis: { keys(pattern: string): Promise<string[]> }): Promise<string[]> {
    const owed = new Set(ids);
    const waiting = (await this.waiting()).filter((id) => owed.has(id));
    const keys = (await redis.keys(`${this.cluster.namespace}:*`)).join('\n');
    return waiting.filter((id) => !keys.includes(id));
  }

  /** What is wrong with the sealed audit log, or `undefined` when it is intact. */
  async verifyAudit(): Promise<string | undefined> {
    const { code, output } = await this.cluster.run(['audit', 'verify']);
    return code === 0 ? undefined : `the audit log is not intact: ${output}`;
  }

  async close(options: { keep?: boolean } = {}): Promise<void> {
    await Promise.allSettled(this.#loads.map((load) => load.close()));
    await this.database.close(true).catch(() => undefined);
    await this.cluster.close(options);
    for (const subscriber of this.subscribers) subscriber.close();
    await this.sink.close();
  }

  async #subscribe(subscriber: Subscriber): Promise<void> {
    const endpoint = { url: await subscriber.listen(), event_types: ['payment.succeeded', 'user.created'] };
    const { secret } = await this.#call<{ secret: string }>('/webhooks/endpoints', endpoint);
    subscriber.verifyWith(secret);
  }

  async #call<T>(path: string, body: unknown): Promise<T> {
    const response = await fetch(`${this.cluster.api.url}/api/v1${path}`, {
      method: 'POST',
      headers: {
        'content-type': 'application/json',
        ...(this.#token ? { authorization: `Bearer ${this.#token}` } : {}),
      },
      body: JSON.stringify(body),
      signal: AbortSignal.timeout(20_000),
    });
    const text = await response.text();
    if (!response.ok) throw new Error(`POST ${path} answered ${response.status}: ${text}`);
    return (JSON.parse(text) as { data: T }).data;
  }
}
