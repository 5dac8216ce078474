import { decodeJwt, SignJWT } from 'jose';
import { sql } from 'kysely';
import { SIGNING_ALGORITHM, SigningKeys } from '../../src/domain/sessions/signing-keys.ts';
import { pause } from '../../src/services/service.ts';
import { RETRY_DELAYS_S } from './lib/cluster.ts';
import type { Load } from './lib/load.ts';
import type { WaybillProcess } from './lib/process.ts';
import type { Outcome, Stage } from './lib/stage.ts';
import { STUMBLES } from './lib/subscriber.ts';

const HOUR_MS = 3_600_000;
/** A retry comes no sooner than its delay less 10 % of jitter, less the second that a claim may be early, less what is measured here. */
const earliest = (delayS: number): number => 0.9 * delayS - 1 - 0.3;
/** What a token may be off by, in seconds: the two clocks of this drill are one host's, so it is rounding. */
const TOLERANCE_S = 3;
/** Alarms beyond its attempts that a delivery may use up: each of a process that was ahead rings once or twice too early. */
const EXTRA_ALARMS = 60;

/** How far each process's clock is off, by its place in the layout. */
const FAULTS: Record<string, (place: number) => number> = {
  'every clock an hour ahead, then right again': () => HOUR_MS,
  'every clock an hour behind, then right again': () => -HOUR_MS,
  'clocks an hour ahead and an hour behind by turns, then right again': (place) => (place % 2 ? HOUR_MS : -HOUR_MS),
};
export const APART = Object.keys(FAULTS).at(-1) as string;

/**
 * Wall clocks of processes that jump an hour, and back, under load and with retries pending: retries keep to their
 * schedule, no signature is out of its time, nothing that is kept for half an hour is pruned, and tokens end when they end.
 */
export async function clock(stage: Stage, options: { seconds: number; faults?: string[] }): Promise<Outcome[]> {
  const outcomes: Outcome[] = [];
  for (const [what, apart] of Object.entries(FAULTS)) {
    if (options.faults && !options.faults.includes(what)) continue;
    outcomes.push(await jumped(stage, options.seconds, what, apart));
  }
  return outcomes;
}

async function jumped(stage: Stage, seconds: number, what: string, apart: (place: number) => number): Promise<Outcome> {
  const { cluster } = stage;
  const processes = [...cluster.processes.values()];
  const load = stage.load();
  const problems: string[] = [];
  const ended = await endedToken(stage);
  stage.stumbling.manner = { ...STUMBLES, stuck: true };
  try {
    load.start({ events: 20, registrations: 3 });
    await pause((seconds * 1000) / 2);
    problems.push(...(await tokens(stage, ended, 'before')));
    stage.report(what);
    await Promise.all(processes.map((it, place) => it.jump(apart(place))));
    // One that starts under a wrong clock prunes first of all.
    await Promise.all(cluster.named('housekeeping').map((it) => restart(stage, it)));
    problems.push(...(await tokens(stage, ended, 'while the clock is off')));
    await pause((seconds * 1000) / 2);
  } finally {
    await Promise.all(processes.map((it) => it.jump(0)));
    stage.stumbling.manner = STUMBLES;
  }
  problems.push(...(await tokens(stage, ended, 'after')));
  const recovered = await stage.probe(20_000).catch((error: Error) => {
    problems.push(error.message);
    return 20;
  });
  await load.stop();
  return { load, drill: 'clock', what, recovered, problems, afterwards: () => storms(stage, load) };
}

async function restart(stage: Stage, process: WaybillProcess): Promise<void> {
  await process.terminate(15_000);
  await stage.cluster.revive(process);
}

/** A sound token of the administrator's session that ended five minutes ago. */
export async function endedToken(stage: Stage): Promise<string> {
  const { kid, key } = await new SigningKeys(stage.database, stage.cluster.keyring).current();
  const ended = Math.floor(Date.now() / 1000) - 300;
  return new SignJWT({ ...decodeJwt(stage.token), iat: ended - 900, exp: ended })
    .setProtectedHeader({ alg: SIGNING_ALGORITHM, typ: 'at+jwt', kid })
    .sign(key);
}

/** What is wrong with how tokens are taken and made, by the true time. */
export async function tokens(stage: Stage, ended: string, when: string): Promise<string[]> {
  const problems: string[] = [];
  const takes = async (token: string) => {
    const response = await fetch(`${stage.cluster.api.url}/api/v1/users/me`, {
      headers: { authorization: `Bearer ${token}` },
      signal: AbortSignal.timeout(10_000),
    });
    await response.arrayBuffer();
    return response.status;
  };
  const status = await takes(ended);
  if (status !== 401) problems.push(`${when}: a token that had ended was answered ${status}`);
  const known = await takes(stage.token);
  if (known !== 200) problems.push(`${when}: a token that had not ended was answered ${known}`);
  await stage.signIn();
  const { exp = 0 } = decodeJwt(stage.token);
  const left = exp - Date.now() / 1000;
  if (Math.abs(left - 900) > TOLERANCE_S)
    problems.push(`${when}: a new token is good for ${left.toFixed(0)} s, not 900`);
  const fresh = await takes(stage.token);
  if (fresh !== 200) problems.push(`${when}: a new token was answered ${fresh}`);
  return problems;
}

/** Retries that came before their time, and deliveries that went round and round. */
async function storms(stage: Stage, load: Load): Promise<string[]> {
  const problems: string[] = [];
  const early: string[] = [];
  for (const id of load.events.keys()) {
    const tries = stage.stumbling.tries.get(id) ?? [];
    for (const [n, at] of tries.slice(1).entries()) {
      const gap = (at - (tries[n] ?? 0)) / 1000;
      if (gap < earliest(RETRY_DELAYS_S[n] ?? 0)) early.push(`${id} try ${n + 2} after ${gap.toFixed(2)} s`);
    }
  }
  if (early.length > 0) problems.push(`${early.length} retries before their time, such as ${early[0]}`);
  const { rows } = await sql<{ extra: number }>`
    select coalesce(max(generation - attempts), 0)::int as extra from webhook_deliveries
    where event_id like ${`${load.prefix}-%`}`.execute(stage.database.em.fork().getKysely());
  const extra = rows[0]?.extra ?? 0;
  if (extra > EXTRA_ALARMS) problems.push(`a delivery was put off ${extra} times`);
  return problems;
}
