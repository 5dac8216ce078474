import { join, resolve } from 'node:path';
import { type Answer, greetRabbit, greetRedis } from './handshake.ts';
import type { Instance } from './instance.ts';
import { findPostgres, postgresDirectory, postgresHomes, startPostgres } from './postgres.ts';
import { greetPostgres } from './postgres-handshake.ts';
import { findRabbit, startRabbit } from './rabbit.ts';
import { findRedis, startRedis } from './redis.ts';

export interface ServiceUrls {
  databaseUrl: string;
  redisUrl: string;
  rabbitmqUrl: string;
}

/** One of the three servers: how to greet it, and how to start it here. */
export interface Service {
  /** Its name in docker-compose.yml and below `<dataDir>/services/`. */
  name: 'postgres' | 'redis' | 'rabbitmq';
  title: string;
  key: keyof ServiceUrls;
  variable: string;
  port: number;
  greet(url: string): Promise<Answer>;
  isInstalled(): boolean;
  /** The directories a private instance may have, the preferred one first. */
  homes(dataDir: string): string[];
  /** The one of them to start in. */
  directory(dataDir: string): Promise<string>;
  start(dir: string, port: number, signal?: AbortSignal): Promise<Instance>;
  /** The URL of a server that we started: its own credentials, and of the named URL what can still hold. */
  ownUrl(port: number, named: URL): string;
  aptPackage: string;
  brewFormula: string;
  /** The variable of docker-compose.yml that names the published port. */
  composePort: string;
}

const home = (dataDir: string, name: string) => join(resolve(dataDir), 'services', name);

export const SERVICES: readonly Service[] = [
  {
    name: 'postgres',
    title: 'PostgreSQL',
    key: 'databaseUrl',
    variable: 'DATABASE_URL',
    port: 5432,
    greet: greetPostgres,
    isInstalled: () => findPostgres() !== undefined,
    homes: (dataDir) => postgresHomes(home(dataDir, 'postgres')),
    directory: (dataDir) => postgresDirectory(home(dataDir, 'postgres')),
    start: startPostgres,
    ownUrl: (port, named) => `postgresql://postgres:postgres@127.0.0.1:${port}${named.pathname}`,
    aptPackage: 'postgresql',
    brewFormula: 'postgresql@17',
    composePort: 'POSTGRES_PORT',
  },
  {
    name: 'redis',
    title: 'Redis',
    key: 'redisUrl',
    variable: 'REDIS_URL',
    port: 6379,
    greet: greetRedis,
    isInstalled: () => findRedis() !== undefined,
    homes: (dataDir) => [home(dataDir, 'redis')],
    directory: async (dataDir) => home(dataDir, 'redis'),
    start: startRedis,
    ownUrl: (port, named) => `redis://127.0.0.1:${port}${named.pathname}`,
    aptPackage: 'redis-server',
    brewFormula: 'redis',
    composePort: 'REDIS_PORT',
  },
  {
    name: 'rabbitmq',
    title: 'RabbitMQ',
    key: 'rabbitmqUrl',
    variable: 'RABBITMQ_URL',
    port: 5672,
    greet: greetRabbit,
    isInstalled: () => findRabbit() !== undefined,
    homes: (dataDir) => [home(dataDir, 'rabbitmq')],
    directory: async (dataDir) => home(dataDir, 'rabbitmq'),
    start: startRabbit,
    // A fresh broker has only the virtual host "/".
    ownUrl: (port) => `amqp://guest:guest@127.0.0.1:${port}`,
    aptPackage: 'rabbitmq-server',
    brewFormula: 'rabbitmq',
    composePort: 'RABBITMQ_PORT',
  },
];
