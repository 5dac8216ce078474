import { fileURLToPath } from 'node:url';
import type { Service } from './catalogue.ts';
import { type Outcome, run } from './command.ts';
import { freePort } from './endpoint.ts';

const PROJECT_ROOT = fileURLToPath(new URL('../../../', import.meta.url));
const PULL_DEADLINE_MS = 15 * 60_000;

/** True when a Docker engine, not only its command line, answers within 5 s. */
export async function dockerAnswers(): Promise<boolean> {
  const info = await run('docker', ['info', '--format', '{{.ServerVersion}}'], { deadlineMs: 5000 });
  return info.code === 0 && /^\d/.test(info.stdout.trim());
}

/** The port that a container of ours already publishes, so that it is not recreated on another one. */
async function publishedPort(service: Service): Promise<number | undefined> {
  const published = await run('docker', ['compose', 'port', service.name, `${service.port}`], {
    deadlineMs: 10_000,
    cwd: PROJECT_ROOT,
  });
  return Number(/:(\d+)\s*$/.exec(published.stdout)?.[1]) || undefined;
}

/** The loopback port each service is published on: the one it has, else the one its URL names if free, else any. */
export async function choosePorts(wanted: { service: Service; port: number }[]): Promise<number[]> {
  return Promise.all(wanted.map(async ({ service, port }) => (await publishedPort(service)) ?? (await freePort(port))));
}

/** `docker compose up -d --wait` for some of the servers in the project's docker-compose.yml. */
export function composeUp(wanted: { service: Service; port: number }[], signal?: AbortSignal): Promise<Outcome> {
  const ports = Object.fromEntries(wanted.map(({ service, port }) => [service.composePort, `${port}`]));
  return run('docker', ['compose', 'up', '-d', '--wait', ...wanted.map(({ service }) => service.name)], {
    deadlineMs: PULL_DEADLINE_MS,
    cwd: PROJECT_ROOT,
    env: { ...process.env, ...ports },
    signal,
  });
}
