import { mkdirSync, writeFileSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { findExecutable } from './command.ts';
import { freePort } from './endpoint.ts';
import { absent, greetRabbit, ready } from './handshake.ts';
import { type Instance, launch } from './instance.ts';

/** Debian's /usr/sbin/rabbitmq-server changes to another user and directory, so the script behind it comes first. */
export const findRabbit = (): string | undefined =>
  findExecutable(
    '/usr/lib/rabbitmq/bin/rabbitmq-server',
    '/opt/homebrew/sbin/rabbitmq-server',
    '/usr/local/sbin/rabbitmq-server',
    'rabbitmq-server',
  );

const findEpmd = () => findExecutable('epmd', '/usr/lib/erlang/bin/epmd', '/opt/homebrew/bin/epmd');

const NODE_NAME = 'waybill@localhost';

/**
 * Erlang's port mapper would otherwise be started as a daemon that outlives the broker, or be shared with the
 * machine's own broker; a private one on a free port ends with the instance.
 */
function startPortMapper(dir: string, port: number, signal?: AbortSignal): Promise<Instance> {
  return launch({
    title: "RabbitMQ's port mapper (epmd)",
    dir,
    command: findEpmd() ?? 'epmd',
    args: ['-port', `${port}`, '-address', '127.0.0.1'],
    env: { PATH: process.env.PATH },
    url: `epmd://127.0.0.1:${port}`,
    port,
    greet: async () => ((await freePort(port)) === port ? absent('it does not listen yet') : ready),
    deadlineMs: 10_000,
    stopSignal: 'SIGTERM',
    graceMs: 5000,
    signal,
  });
}

/** Starts RabbitMQ on 127.0.0.1:`port` (guest/guest, virtual host `/`) with its data in `dir`. Takes 4 to 10 s. */
export async function startRabbit(dir: string, port: number, signal?: AbortSignal): Promise<Instance> {
  const path = resolve(dir);
  mkdirSync(path, { recursive: true });
  writeFileSync(join(path, 'plugins'), '[].\n');
  const [mapperPort, distributionPort] = await Promise.all([freePort(), freePort()]);
  const mapper = await startPortMapper(join(path, 'epmd'), mapperPort, signal);
  const url = `amqp://guest:guest@127.0.0.1:${port}`;
  const broker = await launch({
    title: 'RabbitMQ',
    dir: path,
    command: findRabbit() ?? 'rabbitmq-server',
    args: [],
    env: {
      PATH: process.env.PATH,
      LANG: 'C.UTF-8',
      HOME: path,
      // Makes the start script replace itself by the Erlang VM, so that the process id is the broker's own.
      RUNNING_UNDER_SYSTEMD: 'true',
      RABBITMQ_NODENAME: NODE_NAME,
      RABBITMQ_NODE_IP_ADDRESS: '127.0.0.1',
      RABBITMQ_NODE_PORT: `${port}`,
      RABBITMQ_DIST_PORT: `${distributionPort}`,
      RABBITMQ_MNESIA_BASE: join(path, 'mnesia'),
      RABBITMQ_LOG_BASE: join(path, 'log'),
      RABBITMQ_LOGS: '-',
      RABBITMQ_CONF_ENV_FILE: join(path, 'rabbitmq-env.conf'),
      RABBITMQ_CONFIG_FILE: join(path, 'rabbitmq'),
      RABBITMQ_ENABLED_PLUGINS_FILE: join(path, 'plugins'),
      RABBITMQ_PID_FILE: join(path, 'pid'),
      RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS: '-kernel inet_dist_use_interface {127,0,0,1}',
      ERL_EPMD_ADDRESS: '127.0.0.1',
      ERL_EPMD_PORT: `${mapperPort}`,
    },
    url,
    port,
    greet: () => greetRabbit(url),
    deadlineMs: 90_000,
    stopSignal: 'SIGTERM',
    graceMs: 20_000,
    signal,
  }).catch(async (error: unknown) => {
    await mapper.stop();
    throw error;
  });
  return {
    url,
    pid: broker.pid,
    stop: () => broker.stop().then(() => mapper.stop()),
    kill: () => Promise.all([broker.kill(), mapper.kill()]).then(() => undefined),
  };
}
