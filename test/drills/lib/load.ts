import { randomBytes } from 'node:crypto';
import { Agent, request } from 'undici';
import { pause } from '../../../src/services/service.ts';

/**
 * What a client was told of one request.
 * - accepted: 2xx
 * - refused: an error answer, or no connection at all: the client knows to try again
 * - unknown: the connection was cut, or no answer came in time, after the request was sent: it may have been taken
 */
export type Told = 'accepted' | 'refused' | 'unknown';

/** A request without an answer for so long hangs. */
const HANG_MS = 15_000;
/** Requests under way at once; a beat beyond that is left out. */
const IN_FLIGHT = 60;

/** Clients that publish events and register accounts at a steady rate, and remember what they were told of each. */
export class Load {
  /** Marks every event id and address of this load. */
  readonly prefix = `d${randomBytes(3).toString('hex')}`;
  readonly events = new Map<string, Told>();
  /** By address. */
  readonly registrations = new Map<string, { told: Told; operationId?: string }>();
  /** How many refusals there were by status code; `0` is no connection. */
  readonly refusals = new Map<number, number>();
  /** The longest that a client waited for a 503, in ms. */
  slowestRefusalMs = 0;
  hung = 0;
  readonly #base: string;
  readonly #token: () => string;
  readonly #agent = new Agent({ connections: IN_FLIGHT, headersTimeout: HANG_MS, bodyTimeout: HANG_MS });
  readonly #underWay = new Set<Promise<unknown>>();
  readonly #beats: NodeJS.Timeout[] = [];
  #count = 0;

  constructor(base: string, token: () => string) {
    this.#base = base;
    this.#token = token;
  }

  start(rate: { events: number; registrations: number }): void {
    const every = (perSecond: number, work: () => Promise<unknown>) => {
      if (perSecond <= 0) return;
      this.#beats.push(
        setInterval(() => {
          if (this.#underWay.size < IN_FLIGHT) this.#track(work());
        }, 1000 / perSecond),
      );
    };
    every(rate.events, () => this.publish());
    every(rate.registrations, () => this.register());
  }

  /** Sends nothing more and waits for what is under way. */
  async stop(): Promise<void> {
    for (const beat of this.#beats.splice(0)) clearInterval(beat);
    await Promise.allSettled(this.#underWay);
  }

  /** For so many seconds. */
  async run(rate: { events: number; registrations: number }, seconds: number): Promise<void> {
    this.start(rate);
    await pause(seconds * 1000);
    await this.stop();
  }

  async close(): Promise<void> {
    await this.stop();
    await this.#agent.destroy();
  }

  /** Publishes one event under an id of ours. */
  async publish(id = this.#nextName()): Promise<Told> {
    const body = { type: 'payment.succeeded', id, data: { payment_id: id, amount: 1, currency: 'EUR' } };
    const { told } = await this.#post('/events', body, { authorization: `Bearer ${this.#token()}` });
    this.events.set(id, told);
    return told;
  }

  async register(email = `${this.#nextName()}@drill.example`): Promise<Told> {
    const body = { email, password: 'correct horse battery staple', full_name: 'Ada Drill', terms_accepted: true };
    const { told, data } = await this.#post('/auth/register', body, {});
    const operationId = (data as { operation_id?: string } | undefined)?.operation_id;
    this.registrations.set(email, { told, ...(operationId ? { operationId } : {}) });
    return told;
  }

  #nextName(): string {
    this.#count += 1;
    return `${this.prefix}-${this.#count}`;
  }

  count(told: Told): number {
    const all = [...this.events.values(), ...[...this.registrations.values()].map((it) => it.told)];
    return all.filter((it) => it === told).length;
  }

  async #post(path: string, body: unknown, headers: Record<string, string>): Promise<{ told: Told; data?: unknown }> {
    const began = performance.now();
    try {
      const response = await request(`${this.#base}/api/v1${path}`, {
        dispatcher: this.#agent,
        method: 'POST',
        headers: { 'content-type': 'application/json', ...headers },
        body: JSON.stringify(body),
      });
      const { statusCode } = response;
      const text = await response.body.text();
      if (statusCode >= 200 && statusCode < 300)
        return { told: 'accepted', data: (JSON.parse(text) as { data: unknown }).data };
      this.#refused(statusCode);
      if (statusCode === 503) this.slowestRefusalMs = Math.max(this.slowestRefusalMs, performance.now() - began);
      return { told: 'refused' };
    } catch (error) {
      const { code } = error as { code?: string };
      if (code === 'ECONNREFUSED') {
        this.#refused(0);
        return { told: 'refused' };
      }
      if (performance.now() - began >= HANG_MS - 100) this.hung += 1;
      return { told: 'unknown' };
    }
  }

  #refused(status: number): void {
    this.refusals.set(status, (this.refusals.get(status) ?? 0) + 1);
  }

  #track(work: Promise<unknown>): void {
    this.#underWay.add(work);
    void work.finally(() => this.#underWay.delete(work));
  }
}
