import { spawn } from 'node:child_process';
import { loadConfig } from '../config.ts';
import { provisionFor } from './start.ts';

/** Runs a command with PostgreSQL, Redis and RabbitMQ there; resolves with its exit code. */
export async function withServices([program, ...args]: string[]): Promise<number> {
  const config = loadConfig();
  const provisioned = await provisionFor(config, (line) => process.stderr.write(`${line}\n`));
  try {
    const env = {
      ...process.env,
      DATABASE_URL: provisioned.databaseUrl,
      REDIS_URL: provisioned.redisUrl,
      RABBITMQ_URL: provisioned.rabbitmqUrl,
    };
    return await new Promise<number>((resolve, reject) => {
      const child = spawn(program ?? '', args, { stdio: 'inherit', env, shell: false });
      const pass = (signal: NodeJS.Signals) => child.kill(signal);
      for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.on(signal, pass);
      child.on('error', reject);
      child.on('exit', (code, signal) => resolve(signal ? 1 : (code ?? 1)));
    });
  } finally {
    await provisioned.stop();
  }
}
