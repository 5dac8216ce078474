/**
 * Makes sure that PostgreSQL, Redis and RabbitMQ answer. Each of them is in one of these states:
 *
 * - unknown:  not greeted yet
 * - answered: there is a URL at which it answers; nothing more happens to it
 * - missing:  its URL names this machine and nothing answers there; the ways are tried in turn
 *
 * The ways are a Docker engine, installed binaries, and apt. A way that fails is reported and the next one is tried; a
 * service that is still missing after the last way fails the whole call, which then ends what it had started.
 */
import { join, resolve } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { canInstall, installPackages } from './apt.ts';
import { SERVICES, type Service, type ServiceUrls } from './catalogue.ts';
import { choosePorts, composeUp, dockerAnswers } from './docker.ts';
import { addressOf, endpointOf, freePort, isLoopback, maskPassword } from './endpoint.ts';
import type { Answer } from './handshake.ts';
import { findRunning, type Instance } from './instance.ts';
import { withLock } from './lock.ts';

export type { ServiceUrls } from './catalogue.ts';

export interface Provisioned extends ServiceUrls {
  /** Names (`postgres`, `redis`, `rabbitmq`) of the private instances that this call started, in order. */
  started: string[];
  /** Ends those instances, last started first; a second call waits for the first. Containers are kept. */
  stop(): Promise<void>;
}

export type Way = 'docker' | 'binaries' | 'apt';

export interface ProvisionOptions {
  /** Where private instances keep their data (`.waybill`). */
  dataDir: string;
  /** Takes one line, without a line break, when a step begins and when it ends. */
  report: (line: string) => void;
  /** The ways that may be used for what does not answer; all by default. */
  allow?: Way[];
  /** Aborts the call; what it has started by then is ended before it rejects. */
  signal?: AbortSignal;
}

/** The services cannot be had; `message` names each variable and what to do, and shows no password. */
export class ServicesUnavailable extends Error {
  override readonly name = 'ServicesUnavailable';
}

const STARTING_DEADLINE_MS = 30_000;
const LOCK_DEADLINE_MS = 30 * 60_000;
const HEARTBEAT_MS = 10_000;

interface Run {
  options: ProvisionOptions;
  urls: ServiceUrls;
  missing: Set<Service>;
  instances: { service: Service; instance: Instance }[];
  failures: string[];
}

const portOf = (url: string, service: Service) => endpointOf(url, service.port).port;
const seconds = (since: number) => `${((Date.now() - since) / 1000).toFixed(1)} s`;
const messageOf = (error: unknown) => (error instanceof Error ? error.message : String(error));

/** Greets a server; one that says it is starting up is given 30 s. */
async function greetPatiently(service: Service, url: string, signal?: AbortSignal): Promise<Answer> {
  const deadline = Date.now() + STARTING_DEADLINE_MS;
  for (;;) {
    const answer = await service.greet(url);
    if (answer.state !== 'starting' || Date.now() > deadline || signal?.aborted) return answer;
    await delay(200);
  }
}

/** Reports `begins`, then a line every 10 s while the work goes on. */
async function announced<T>({ options: { report } }: Run, begins: string, work: () => Promise<T>): Promise<T> {
  const since = Date.now();
  report(`${begins} …`);
  const heartbeat = setInterval(() => report(`${begins}: still at it after ${seconds(since)} …`), HEARTBEAT_MS);
  try {
    return await work();
  } finally {
    clearInterval(heartbeat);
  }
}

/** Our own instance, left running by another call, when it is the one that listens on the port the URL names. */
function ownInstance({ options, urls }: Run, service: Service): { url: string; pid: number } | undefined {
  const named = urls[service.key];
  const endpoint = endpointOf(named, service.port);
  const running = service.homes(options.dataDir).flatMap((dir) => findRunning(dir) ?? []);
  const own = running.find(({ port }) => isLoopback(endpoint) && port === endpoint.port);
  return own && { url: service.ownUrl(own.port, new URL(named)), pid: own.pid };
}

/** Sorts the services into answered and missing. Throws one error for all that cannot be helped from here. */
async function survey(run: Run, services: Iterable<Service>): Promise<void> {
  const { urls, missing, options } = run;
  const problems: string[] = [];
  await Promise.all(
    [...services].map(async (service) => {
      // Its credentials are ours, whatever the URL says, so that a second start finds what the first one found.
      const own = ownInstance(run, service);
      if (own) urls[service.key] = own.url;
      const url = urls[service.key];
      const endpoint = endpointOf(url, service.port);
      const where = `${service.variable} (${maskPassword(url)})`;
      const answer = await greetPatiently(service, url, options.signal);
      if (answer.state === 'ready') {
        missing.delete(service);
        const note = own ? ` (the private instance that already runs, process ${own.pid})` : '';
        options.report(`${service.title}: answers at ${addressOf(endpoint)}${note}`);
      } else if (answer.state === 'refused') {
        problems.push(`${where}: ${service.title} answers and refuses the credentials: ${answer.detail}`);
      } else if (answer.state === 'starting') {
        problems.push(
          `${where}: ${service.title} at ${addressOf(endpoint)} does not finish starting: ${answer.detail}`,
        );
      } else if (isLoopback(endpoint)) {
        missing.add(service);
      } else {
        problems.push(`${where}: no ${service.title} at ${addressOf(endpoint)}: ${answer.detail}`);
      }
    }),
  );
  if (problems.length > 0) throw new ServicesUnavailable(problems.sort().join('\n'));
}

async function throughDocker(run: Run): Promise<void> {
  const { options, missing, urls, failures } = run;
  if (!(await dockerAnswers())) return;
  const services = [...missing];
  const ports = await choosePorts(services.map((service) => ({ service, port: portOf(urls[service.key], service) })));
  const wanted = services.map((service, at) => ({ service, port: ports[at] ?? service.port }));
  const names = services.map(({ name }) => name).join(' ');
  const since = Date.now();
  const outcome = await announced(run, `Docker: docker compose up -d --wait ${names}`, () =>
    composeUp(wanted, options.signal),
  );
  if (outcome.code !== 0) {
    failures.push(`docker compose up: ${outcome.tail}`);
    options.report(`Docker: could not start them: ${outcome.tail}`);
    return;
  }
  options.report(`Docker: up in ${seconds(since)}; the containers are kept (docker compose stop ends them)`);
  for (const { service, port } of wanted) {
    const named = urls[service.key];
    if (port !== portOf(named, service)) urls[service.key] = service.ownUrl(port, new URL(named));
  }
  await survey(run, services);
}

/** The URL of an instance in `dir` that an earlier call left running; waits for one that is still starting. */
async function reuse(run: Run, service: Service, dir: string): Promise<string | undefined> {
  const deadline = Date.now() + STARTING_DEADLINE_MS;
  for (;;) {
    const running = findRunning(dir);
    if (!running) return undefined;
    const url = service.ownUrl(running.port, new URL(run.urls[service.key]));
    const answer = await service.greet(url);
    if (answer.state === 'ready') {
      run.options.report(
        `${service.title}: uses the private instance that already runs on port ${running.port} (process ${running.pid})`,
      );
      return url;
    }
    if (Date.now() > deadline)
      throw new Error(`process ${running.pid} serves ${dir} and does not answer; end it first`);
    await delay(100);
  }
}

async function startPrivately(run: Run, service: Service): Promise<void> {
  const { options, urls, missing, instances } = run;
  const named = urls[service.key];
  const [preferred] = service.homes(options.dataDir);
  const dir = await service.directory(options.dataDir);
  if (dir !== preferred) {
    options.report(`${service.title}: its data goes to ${dir}, because user postgres cannot enter ${preferred}`);
  }
  const reused = await reuse(run, service, dir);
  if (reused) {
    urls[service.key] = reused;
  } else {
    const wanted = portOf(named, service);
    const port = await freePort(wanted);
    const note = port === wanted ? `port ${port}` : `port ${port}, because ${wanted} is taken`;
    const since = Date.now();
    const instance = await announced(run, `${service.title}: starting a private instance under ${dir} (${note})`, () =>
      service.start(dir, port, options.signal),
    );
    instances.push({ service, instance });
    urls[service.key] = service.ownUrl(port, new URL(named));
    options.report(`${service.title}: ready in ${seconds(since)} at 127.0.0.1:${port}`);
  }
  missing.delete(service);
}

async function throughBinaries(run: Run): Promise<void> {
  const installed = [...run.missing].filter((service) => service.isInstalled());
  await Promise.all(
    installed.map((service) =>
      startPrivately(run, service).catch((error: unknown) => {
        run.failures.push(messageOf(error));
        run.options.report(`${service.title}: ${messageOf(error)}`);
      }),
    ),
  );
}

async function throughApt(run: Run): Promise<void> {
  const { options, missing, failures } = run;
  const absent = [...missing].filter((service) => !service.isInstalled());
  if (absent.length === 0 || !canInstall()) return;
  const packages = absent.map((service) => service.aptPackage);
  const since = Date.now();
  const outcome = await announced(run, `apt-get: installing ${packages.join(' ')}`, () =>
    installPackages(packages, options.signal),
  );
  if (outcome.code !== 0) {
    failures.push(`apt-get: ${outcome.tail}`);
    options.report(`apt-get: failed: ${outcome.tail}`);
    return;
  }
  options.report(`apt-get: installed in ${seconds(since)}`);
  // A machine whose policy lets packages start their services has them running now.
  await survey(run, absent);
  await throughBinaries(run);
}

function advice({ missing, urls, failures }: Run): string {
  const services = [...missing];
  const list = services.map((it) => `${it.title} (${it.variable} ${addressOf(endpointOf(urls[it.key], it.port))})`);
  return [
    `These services do not answer and could not be started here: ${list.join(', ')}.`,
    ...failures.map((failure) => `- ${failure}`),
    'Do one of these and try again:',
    '- start Docker (the engine is found by itself)',
    `- Debian or Ubuntu: apt-get install ${services.map((it) => it.aptPackage).join(' ')}`,
    `- macOS: brew install ${services.map((it) => it.brewFormula).join(' ')}`,
    `- or set ${services.map((it) => it.variable).join(', ')} to servers that you have`,
  ].join('\n');
}

const WAYS: Record<Way, (run: Run) => Promise<void>> = {
  docker: throughDocker,
  binaries: throughBinaries,
  apt: throughApt,
};

async function bringUp(run: Run): Promise<void> {
  const { options, missing } = run;
  const allow = options.allow ?? ['docker', 'binaries', 'apt'];
  // Another process may have brought them up while this one waited for the lock.
  await survey(run, missing);
  for (const way of ['docker', 'binaries', 'apt'] as const) {
    if (allow.includes(way) && missing.size > 0 && !options.signal?.aborted) await WAYS[way](run);
  }
  if (options.signal?.aborted) throw new ServicesUnavailable('Stopped on request before the services were up.');
  if (missing.size > 0) throw new ServicesUnavailable(advice(run));
}

async function stopAll({ instances, options: { report } }: Run): Promise<void> {
  for (const { service, instance } of instances.reverse()) {
    const since = Date.now();
    report(`${service.title}: stopping the private instance …`);
    await instance.stop();
    report(`${service.title}: stopped in ${seconds(since)}`);
  }
}

/**
 * Makes sure that the three servers answer and says where. What a URL names is used when it answers; otherwise, when
 * it names this machine, the server is brought up (Docker engine, installed binaries, apt) on the port the URL names
 * or, if that is taken, on a free one.
 * @throws ServicesUnavailable when a server refuses the credentials, is not to be had, or the call was aborted
 */
export async function provision(urls: ServiceUrls, options: ProvisionOptions): Promise<Provisioned> {
  const run: Run = { options, urls: { ...urls }, missing: new Set(), instances: [], failures: [] };
  await survey(run, SERVICES);
  if (run.missing.size > 0) {
    const lock = join(resolve(options.dataDir), 'services', 'lock');
    const waiting = (pid: number) => options.report(`waiting for process ${pid}, which is bringing services up …`);
    try {
      await withLock(lock, LOCK_DEADLINE_MS, waiting, () => bringUp(run));
    } catch (error) {
      await stopAll(run);
      throw error;
    }
  }
  const started = run.instances.map(({ service }) => service.name);
  let stopped: Promise<void> | undefined;
  return {
    ...run.urls,
    started,
    stop: () => {
      stopped ??= stopAll(run);
      return stopped;
    },
  };
}
