import { closeRedis, createRedis } from '../../src/services/redis.ts';
import { pause } from '../../src/services/service.ts';
import { SILENT } from './lib/cluster.ts';
import type { Load } from './lib/load.ts';
import type { Outcome, Stage } from './lib/stage.ts';
import { STUMBLES } from './lib/subscriber.ts';
import { eventually } from './lib/wait.ts';

/** Every alarm is back so soon after Redis answers. */
const ALARMS_BACK_MS = 15_000;

/** How many rows wait for their alarms before Redis is broken, and how long their subscriber asks them to. */
const WAITING = 60;
const LATER_S = 10;

const FAULTS: Record<string, (stage: Stage, client: Client) => Promise<void>> = {
  FLUSHALL: async (_stage, client) => {
    await client.flushall();
  },
  'SIGKILL, away for 3 s': async ({ cluster }) => {
    await cluster.servers.redis.kill();
    await pause(3000);
    await cluster.servers.redis.start();
  },
};

/** Redis emptied, and killed, while alarms of webhooks and mails are waiting, delayed and active. `together`: both in one row. */
export async function redis(stage: Stage, options: { seconds: number; together?: boolean }): Promise<Outcome[]> {
  const faults = Object.keys(FAULTS);
  if (options.together) return [await broken(stage, options.seconds, faults)];
  const outcomes: Outcome[] = [];
  for (const fault of faults) {
    const outcome = await broken(stage, options.seconds, [fault]);
    // A mail that the next fault's refusals met again would wait for a minute more.
    await stage.settle(outcome.load, 180_000);
    outcomes.push(outcome);
  }
  return outcomes;
}

type Client = ReturnType<typeof createRedis>;

async function broken(stage: Stage, seconds: number, faults: string[]): Promise<Outcome> {
  const client = createRedis(stage.cluster.servers.redis.url, 'patient', SILENT, 'waybill drill');
  const load = stage.load();
  const problems: string[] = [];
  try {
    await client.connect();
    load.start({ events: 30, registrations: 5 });
    await pause((seconds * 1000) / 2);
    // One subscriber and the mail server refuse everything for now, so that all of theirs waits for its alarm.
    stage.stumbling.manner = { later: LATER_S };
    stage.sink.mood = 450;
    await eventually('alarms are waiting', async () => (await stage.waiting()).length >= WAITING, 30_000);
    let waiting = 0;
    let recovered = 0;
    for (const fault of faults) {
      waiting = (await stage.waiting()).length;
      stage.report(`Redis: ${fault}, with ${waiting} rows waiting for their alarms`);
      await FAULTS[fault]?.(stage, client);
      recovered = Math.max(recovered, await alarmsBack(stage, client, problems));
    }
    stage.stumbling.manner = STUMBLES;
    stage.sink.mood = 250;
    await pause((seconds * 1000) / 2);
    await load.stop();
    noRefusals(load, problems);
    return { load, drill: 'redis', what: `${faults.join('; then ')}; ${waiting} alarms waiting`, recovered, problems };
  } finally {
    stage.stumbling.manner = STUMBLES;
    stage.sink.mood = 250;
    await closeRedis(client);
  }
}

/** The seconds until every row that waits now has an alarm in Redis, or is at work, or done. */
async function alarmsBack(stage: Stage, client: Client, problems: string[]): Promise<number> {
  const owed = await stage.waiting();
  let without: string[] = owed;
  const back = await eventually(
    'every alarm is back',
    async () => {
      without = await stage.withoutAlarm(without, client);
      return without.length === 0;
    },
    3 * ALARMS_BACK_MS,
  ).catch((error: Error) => {
    problems.push(`${error.message}; ${without.length} of ${owed.length} are not, such as ${without[0]}`);
    return { seconds: (3 * ALARMS_BACK_MS) / 1000 };
  });
  if (back.seconds > ALARMS_BACK_MS / 1000) problems.push(`alarms were back only after ${back.seconds.toFixed(1)} s`);
  return back.seconds;
}

/** Without Redis everything is slower and nothing is refused. */
function noRefusals(load: Load, problems: string[]): void {
  for (const [status, times] of load.refusals)
    problems.push(`${times} requests were answered ${status || 'not at all'}`);
}
