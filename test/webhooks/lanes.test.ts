import { describe, expect, it } from 'vitest';
import { Lanes } from '../../src/webhooks/lanes.ts';
import { eventually } from '../harness.ts';

/** Sends to endpoints of their own, which end when they are told to. */
function sends(lanes: Lanes) {
  const ends: (() => void)[] = [];
  const state = { now: 0, done: 0 };
  const send = async () => {
    state.now += 1;
    await new Promise<void>((resolve) => ends.push(resolve));
    state.now -= 1;
    state.done += 1;
    return true;
  };
  return {
    state,
    begin: (n: number) => {
      for (let i = 0; i < n; i += 1)
        void lanes.through(`endpoint-${Math.random()}`, send, { as: 'fresh', admit: async () => undefined });
    },
    end: (n: number) => {
      for (const one of ends.splice(0, n)) one();
    },
  };
}

describe('the slots of a process', () => {
  it('grow at once for those who wait, and shrink as those on their way end', async () => {
    const lanes = new Lanes(2);
    const { state, begin, end } = sends(lanes);
    begin(8);
    await eventually(() => state.now === 2, 'two are on their way');
    lanes.setConcurrency(5);
    await eventually(() => state.now === 5, 'three more begin at once');
    lanes.setConcurrency(1);
    end(4);
    await eventually(() => state.done === 4, 'four have ended');
    expect(state.now).toBe(1); // nobody took their places
    end(1);
    await eventually(() => state.done === 5 && state.now === 1, 'one at a time from now on');
    end(1);
    await eventually(() => state.done === 6 && state.now === 1, 'one at a time');
    end(1);
    await eventually(() => state.done === 7 && state.now === 1, 'the last');
    end(1);
    await eventually(() => state.done === 8 && state.now === 0, 'all are done');
  });

  it('are not kept by endpoints that hang, however many', async () => {
    const lanes = new Lanes(50);
    const hanging = Promise.withResolvers<boolean>();
    const told: number[] = [];
    const admit = async () => undefined;
    const held: Promise<unknown>[] = [];
    for (let n = 0; n < 40; n += 1)
      for (let i = 0; i < 30; i += 1)
        held.push(
          lanes.through(`hanging-${n}`, () => hanging.promise, { as: 'fresh', admit, onLong: () => told.push(n) }),
        );
    let good = 0;
    const send = async () => {
      good += 1;
      return true;
    };
    for (let i = 0; i < 24; i += 1) void lanes.through('good', send, { as: 'fresh', admit });
    await eventually(() => good === 24, 'the good ones are sent');
    await eventually(() => told.length === 160, 'each that hangs is told of');
    hanging.resolve(true);
    const holds = await Promise.all(held);
    // Four of each were on their way; what waited behind them went to its line.
    expect(holds.filter((hold) => hold === undefined)).toHaveLength(160);
    expect(lanes.wants('hanging-0')).toBe(4);
  });
});
