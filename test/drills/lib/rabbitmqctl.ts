import { join } from 'node:path';
import { findExecutable, run } from '../../../src/services/provision/command.ts';
import { findRunning } from '../../../src/services/provision/instance.ts';

/** Runs Erlang on the private broker in `directory` (rabbitmqctl eval). Takes two seconds to start. */
export async function evalOnBroker(directory: string, expression: string): Promise<void> {
  const mapper = findRunning(join(directory, 'epmd'));
  if (!mapper) throw new Error("the broker's port mapper does not run");
  const command = findExecutable(
    '/usr/lib/rabbitmq/bin/rabbitmqctl',
    '/opt/homebrew/sbin/rabbitmqctl',
    '/usr/local/sbin/rabbitmqctl',
    'rabbitmqctl',
  );
  const { code, tail } = await run(command ?? 'rabbitmqctl', ['eval', expression], {
    deadlineMs: 60_000,
    env: {
      PATH: process.env.PATH,
      LANG: 'C.UTF-8',
      HOME: directory, // where the broker's cookie lies
      RABBITMQ_NODENAME: 'waybill@localhost',
      RABBITMQ_CONF_ENV_FILE: join(directory, 'rabbitmq-env.conf'),
      ERL_EPMD_ADDRESS: '127.0.0.1',
      ERL_EPMD_PORT: String(mapper.port),
    },
  });
  if (code !== 0) throw new Error(`rabbitmqctl eval failed: ${tail}`);
}
