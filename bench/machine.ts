import { execFileSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { arch, cpus, loadavg, platform, release, totalmem } from 'node:os';
import amqp from 'amqplib';
import { Redis } from 'ioredis';
import pg from 'pg';

export interface Machine {
  cpu: string;
  cores: number;
  memory_gib: number;
  os: string;
  /** 1-minute load average when the run began: what others did to the machine. */
  load_before: number;
}

export interface Versions {
  node: string;
  waybill: string;
  revision: string;
  postgresql: string;
  redis: string;
  rabbitmq: string;
}

export function describeMachine(): Machine {
  const all = cpus();
  return {
    cpu: all[0]?.model.trim() ?? 'unknown',
    cores: all.length,
    memory_gib: Math.round(totalmem() / 2 ** 30),
    os: `${platform()} ${arch()} ${release()}`,
    load_before: load(),
  };
}

export const load = (): number => Number((loadavg()[0] ?? 0).toFixed(2));

/** Seconds of CPU time that all of the machine has spent, without idling and waiting. */
export function busySeconds(): number {
  return cpus().reduce((sum, { times }) => sum + times.user + times.nice + times.sys + times.irq, 0) / 1000;
}

export async function describeVersions(
  checkout: string,
  urls: { databaseUrl: string; redisUrl: string; rabbitmqUrl: string },
): Promise<Versions> {
  const { version } = JSON.parse(readFileSync(`${checkout}/package.json`, 'utf8')) as { version: string };
  const [postgresql, redis, rabbitmq] = await Promise.all([
    postgresVersion(urls.databaseUrl),
    redisVersion(urls.redisUrl),
    rabbitVersion(urls.rabbitmqUrl),
  ]);
  return { node: process.version, waybill: version, revision: revisionOf(checkout), postgresql, redis, rabbitmq };
}

/** The commit, marked when the tree differs from it; empty outside of a checkout. */
function revisionOf(checkout: string): string {
  const git = (...args: string[]) =>
    execFileSync('git', ['-C', checkout, ...args], { encoding: 'utf8', stdio: ['ignore', 'pipe', 'ignore'] }).trim();
  try {
    return `${git('rev-parse', '--short', 'HEAD')}${git('status', '--porcelain', 'src') ? '+' : ''}`;
  } catch {
    return '';
  }
}

async function postgresVersion(url: string): Promise<string> {
  const client = new pg.Client({ connectionString: new URL('/postgres', url).toString() });
  await client.connect();
  const { rows } = await client.query<{ server_version: string; fsync: string; synchronous_commit: string }>(
    `select current_setting('server_version') as server_version, current_setting('fsync') as fsync,
       current_setting('synchronous_commit') as synchronous_commit`,
  );
  await client.end();
  const [row] = rows;
  return `${row?.server_version.split(' ')[0]} (fsync ${row?.fsync}, synchronous_commit ${row?.synchronous_commit})`;
}

async function redisVersion(url: string): Promise<string> {
  const redis = new Redis(url);
  const info = await redis.info();
  redis.disconnect();
  const of = (key: string) => new RegExp(`^${key}:(\\S+)`, 'm').exec(info)?.[1] ?? 'unknown';
  return `${of('redis_version')} (AOF ${of('aof_enabled') === '1' ? 'on' : 'off'})`;
}

async function rabbitVersion(url: string): Promise<string> {
  const model = await amqp.connect(url);
  const properties = (model.connection as unknown as { serverProperties: { version?: string } }).serverProperties;
  await model.close();
  return properties.version ?? 'unknown';
}
