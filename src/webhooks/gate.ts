import type { Breakers } from './breakers.ts';
import type { ActiveEndpoint } from './directory.ts';
import type { Hold } from './holds.ts';
import type { Arrival, Lanes } from './lanes.ts';
import type { EndpointRates } from './rate.ts';
import type { Throttles } from './throttle.ts';
import type { Cause } from './waiting.ts';

/** Somebody waits for it. */
export const isByHand = (cause: Cause): boolean => cause === 'manual' || cause === 'test';

/** All that may keep a delivery from its endpoint, asked in one order. */
export class Gate {
  readonly #breakers: Breakers;
  readonly #throttles: Throttles;
  readonly #rates: EndpointRates;
  readonly #lanes: Lanes;

  constructor(parts: { breakers: Breakers; throttles: Throttles; rates: EndpointRates; lanes: Lanes }) {
    this.#breakers = parts.breakers;
    this.#throttles = parts.throttles;
    this.#rates = parts.rates;
    this.#lanes = parts.lanes;
  }

  /** What keeps an endpoint's deliveries back: a retry by hand passes the breaker, a test the pause too. */
  held(endpointId: string, cause: Cause): Hold | undefined {
    if (cause === 'test') return undefined;
    const open = cause === 'manual' ? undefined : this.#breakers.hold(endpointId);
    return open ?? this.#throttles.hold(endpointId, this.#lanes.stepMs(endpointId));
  }

  /**
   * Sends when breaker, throttle, lane and rate let it; else returns until when to put it off. What is fresh queues
   * behind those that were put off before it; what is done by hand passes the breaker, and a test the rate too.
   */
  async through(
    endpoint: ActiveEndpoint,
    {
      as,
      cause,
      onLong,
      stale = () => false,
    }: { as: Arrival; cause: Cause; onLong: () => void; stale?: () => boolean },
    send: (probe: boolean) => Promise<boolean>,
  ): Promise<Hold | undefined> {
    const { id, timeoutMs } = endpoint;
    const byHand = isByHand(cause);
    const rateLimit = cause === 'test' ? null : endpoint.rateLimit;
    const queues = rateLimit !== null && !byHand && (as === 'fresh' || as === 'parked');
    const hold = this.held(id, cause) ?? (queues ? this.#rates.queued(id, rateLimit) : undefined);
    if (hold) return hold;
    let probe = byHand;
    return this.#lanes.through(id, () => send(probe), {
      as,
      onLong,
      admit: async () => {
        if (stale()) return this.#lanes.parkedHold(id); // before it costs the endpoint a token of its rate
        const limited =
          this.held(id, cause) ?? (rateLimit === null ? undefined : await this.#rates.take(id, rateLimit));
        if (limited || byHand) return limited;
        const admitted = await this.#breakers.admit(id, timeoutMs);
        if (typeof admitted === 'object') return admitted;
        probe = admitted === 'probe';
        return undefined;
      },
    });
  }
}
