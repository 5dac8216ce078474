import { existsSync, rmSync, writeFileSync } from 'node:fs';
import { findExecutable, type Outcome, run } from './command.ts';

const UPDATE_DEADLINE_MS = 5 * 60_000;
const INSTALL_DEADLINE_MS = 20 * 60_000;
const POLICY = '/usr/sbin/policy-rc.d';

/** True on Debian and its descendants as root. */
export function canInstall(): boolean {
  return process.getuid?.() === 0 && existsSync('/etc/debian_version') && findExecutable('apt-get') !== undefined;
}

/**
 * `apt-get update`, then `apt-get install -y`. While it runs, packages may not start their own services (Debian
 * policy, invoke-rc.d's policy-rc.d): those would listen with settings that are not ours. A policy that the machine
 * already has is left alone.
 */
export async function installPackages(packages: string[], signal?: AbortSignal, policy = POLICY): Promise<Outcome> {
  const env = { ...process.env, DEBIAN_FRONTEND: 'noninteractive' };
  const updated = await run('apt-get', ['update'], { deadlineMs: UPDATE_DEADLINE_MS, env, signal });
  if (updated.code !== 0) return updated;
  const isOurs = !existsSync(policy);
  if (isOurs) writeFileSync(policy, '#!/bin/sh\nexit 101\n', { mode: 0o755 });
  try {
    return await run('apt-get', ['install', '-y', '--no-install-recommends', ...packages], {
      deadlineMs: INSTALL_DEADLINE_MS,
      env,
      signal,
    });
  } finally {
    if (isOurs) rmSync(policy, { force: true });
  }
}
