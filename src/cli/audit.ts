import { loadConfig } from '../config.ts';
import { type Anchor, verify } from '../domain/audit/index.ts';
import { CommandFailed } from './failure.ts';
import { openMigratedStore } from './runtime.ts';
import { say } from './say.ts';

/** `waybill audit verify`: exit code 0 when the log is intact, 1 when it is not. */
export async function verifyAudit(options: { json?: boolean; anchor?: string }): Promise<number> {
  const anchor = options.anchor === undefined ? undefined : parseAnchor(options.anchor);
  const config = loadConfig();
  const { database, keyring } = await openMigratedStore(config, 'waybill audit');
  try {
    const result = await verify(database.em.fork(), { keys: keyring.for('audit'), ...(anchor ? { anchor } : {}) });
    if (options.json) say(JSON.stringify(result));
    else if (result.intact) say(`intact: ${result.rows} rows in ${result.checkpoints} checkpoints`);
    else
      say(
        `BROKEN at row ${result.first_broken?.id ?? '(unknown)'} of checkpoint ${result.first_broken?.checkpoint}: ${result.first_broken?.why}`,
      );
    return result.intact ? 0 : 1;
  } finally {
    await database.close(true);
  }
}

function parseAnchor(text: string): Anchor {
  const [, n, hash] = /^(\d{1,15}):([0-9a-f]{64})$/.exec(text) ?? [];
  if (!n || !hash) throw new CommandFailed('--anchor takes <number>:<hash>, as the log line "audit checkpoint" has it');
  return { n: Number(n), hash };
}
