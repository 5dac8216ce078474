import { loadConfig } from '../config.ts';
import { Narrator, StepFailed } from './demo/narrator.ts';
import { Platform } from './demo/platform.ts';
import { tellStory } from './demo/story.ts';
import { Subscriber } from './demo/subscriber.ts';
import { CommandFailed } from './failure.ts';
import { say } from './say.ts';
import { provisionFor } from './start.ts';

/** For the story and the removal of its platform together; bringing up missing services comes before. */
const DEADLINE_MS = 120_000;
/** Kept back of it for the removal. */
const REMOVAL_MS = 20_000;

/** The story was broken off from outside. */
class BrokenOff extends Error {
  override name = 'BrokenOff';
  /** By whoever watches, and not because it took too long. */
  readonly wanted: boolean;

  constructor(message: string, wanted: boolean) {
    super(message);
    this.wanted = wanted;
  }
}

/**
 * `waybill demo`: tells the main story on a platform that it starts for itself and removes after. Resolves with 0 when
 * every step held, else with 1 after saying which did not, what was expected and what came.
 */
export async function demo(): Promise<number> {
  const Verifier = await verifier();
  const services = await provisionFor(loadConfig(), say);
  const since = performance.now();
  const narrator = new Narrator();
  const platform = new Platform(services);
  const subscriber = new Subscriber();
  // A process that is ended without a chance to clean up must not leave the platform running.
  process.once('exit', () => platform.kill());
  const hardEnd = setTimeout(() => {
    say(`Not done within ${DEADLINE_MS / 1000} s.`);
    process.exit(1);
  }, DEADLINE_MS);
  const brokenOff = breakOff(DEADLINE_MS - REMOVAL_MS);
  const story = tellStory({ narrator, platform, subscriber, Verifier });
  let failure: unknown;
  try {
    await Promise.race([story, brokenOff.promise]);
  } catch (error) {
    failure = error;
    story.catch(() => undefined);
  }
  brokenOff.forget();
  subscriber.close();
  if (failure) explain(failure, narrator, platform, await platform.endedWithin(300));
  const removed = await remove(platform, failure ? undefined : narrator);
  await services.stop();
  clearTimeout(hardEnd);
  if (failure || !removed) return 1;
  say(`\n${narrator.told} steps held, in ${((performance.now() - since) / 1000).toFixed(1)} s.`);
  return 0;
}

/** The subscriber's library comes with a checkout, not with an installation. */
async function verifier(): Promise<typeof import('standardwebhooks').Webhook> {
  try {
    return (await import('standardwebhooks')).Webhook;
  } catch {
    throw new CommandFailed('the demo belongs to a checkout: run "npm ci && npm run demo" there');
  }
}

/** Rejects on the first signal, or when the time is up. Further signals change nothing: the removal is bounded. */
function breakOff(ms: number): { promise: Promise<never>; forget: () => void } {
  const { promise, reject } = Promise.withResolvers<never>();
  promise.catch(() => undefined);
  const onSignal = (signal: NodeJS.Signals) => reject(new BrokenOff(`Stopped by ${signal}.`, true));
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.on(signal, onSignal);
  const timer = setTimeout(() => reject(new BrokenOff(`Not done within ${ms / 1000} s.`, false)), ms);
  return { promise, forget: () => clearTimeout(timer) };
}

function explain(failure: unknown, narrator: Narrator, platform: Platform, ended: string | undefined): void {
  if (failure instanceof BrokenOff) {
    const during = narrator.current ? ` It was at: ${narrator.current}` : '';
    narrator.hush();
    say(`\n${failure.message}${during}`);
    if (failure.wanted) return;
  } else if (!(failure instanceof StepFailed)) {
    say(`\n${(failure as Error).stack ?? String(failure)}`);
  }
  if (ended) say(`\nThe platform itself ended: ${ended}`);
  if (platform.lines.length > 0) say('\nThe last lines of the platform:');
  for (const line of platform.lines) say(`  | ${line}`);
}

async function remove(platform: Platform, narrator: Narrator | undefined): Promise<boolean> {
  const work = () => platform.remove();
  try {
    if (narrator) await narrator.step('its database, queues and Redis keys are removed', work);
    else {
      say('\nRemoving the platform …');
      await work();
      say('Its database, queues and Redis keys are removed.');
    }
    return true;
  } catch (error) {
    if (!narrator) say((error as Error).message);
    return false;
  }
}
