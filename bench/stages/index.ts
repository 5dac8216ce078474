import type { Stage } from '../stage.ts';
import { accept } from './accept.ts';
import { audit } from './audit.ts';
import { command } from './command.ts';
import { delivery } from './delivery.ts';
import { fanout } from './fanout.ts';
import { processes } from './processes.ts';
import { registration } from './registration.ts';
import { relay } from './relay.ts';

/** Every stage, in the order in which a request passes them. */
export const STAGES: Stage[] = [accept, command, registration, delivery, fanout, audit, relay, processes];

/** The stages of a list such as `accept,audit`; all of them without one. Throws for a name that is none. */
export function stagesOf(list: string | undefined): Stage[] {
  const names = list?.split(',').map((it) => it.trim()) ?? STAGES.map(({ name }) => name);
  return names.map((name) => {
    const stage = STAGES.find((it) => it.name === name);
    if (!stage) throw new Error(`there is no stage "${name}": ${STAGES.map((it) => it.name).join(', ')}`);
    return stage;
  });
}
