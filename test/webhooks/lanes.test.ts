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
});
