import { sql } from 'kysely';
import { pause } from '../../src/services/service.ts';
import type { Outcome, Stage } from './lib/stage.ts';
import { attempt } from './lib/wait.ts';

const FAULTS: Record<string, (stage: Stage, seconds: number) => Promise<void>> = {
  'restarted (fast shutdown)': async ({ cluster }) => {
    await cluster.servers.postgres.stop();
    await pause(2000);
    await cluster.servers.postgres.start();
  },
  'SIGKILL and start': async ({ cluster }) => {
    await cluster.servers.postgres.kill();
    await pause(2000);
    await cluster.servers.postgres.start();
  },
  'backends terminated in mid transaction': async ({ database }, seconds) => {
    for (const end = performance.now() + seconds * 1000; performance.now() < end; await pause(100)) {
      // Those in a transaction first: an idle one proves little.
      await attempt(() =>
        sql`select pg_terminate_backend(pid) from pg_stat_activity
            where application_name like 'waybill%' and (state <> 'idle' or random() < 0.05)`.execute(
          database.em.fork().getKysely(),
        ),
      );
    }
  },
};

/** PostgreSQL restarted, killed, and its backends terminated under load: retried, and no half work. */
export async function postgres(stage: Stage, options: { seconds: number; faults?: string[] }): Promise<Outcome[]> {
  const outcomes: Outcome[] = [];
  for (const [what, breakIt] of Object.entries(FAULTS)) {
    if (options.faults && !options.faults.some((it) => what.startsWith(it))) continue;
    const load = stage.load();
    const problems: string[] = [];
    load.start({ events: 30, registrations: 5 });
    await pause((options.seconds * 1000) / 2);
    stage.report(`PostgreSQL: ${what}`);
    await breakIt(stage, options.seconds / 2);
    const began = performance.now();
    await stage.cluster.untilReady(20_000).catch((error: Error) => problems.push(error.message));
    await stage.probe(20_000).catch((error: Error) => problems.push(error.message));
    const recovered = (performance.now() - began) / 1000;
    await pause((options.seconds * 1000) / 2);
    await load.stop();
    outcomes.push({ load, drill: 'postgres', what, recovered, problems });
  }
  return outcomes;
}
