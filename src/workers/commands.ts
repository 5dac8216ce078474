import { verifyAuditCommand } from '../domain/audit/index.ts';
import { applyCallbackCommand, cancelKycCommand, decideKycCommand, submitKycCommand } from '../domain/kyc/messages.ts';
import { forgotPasswordCommand, registerUserCommand, resendVerificationCommand } from '../domain/users/commands.ts';
import type { BrokerPool } from '../queues/topology.ts';

/**
 * Which pool takes which command. Every process binds the queues by this table, also one that runs no worker: a command
 * published before its pool first starts must wait in a queue. `checkRegistry` compares it with the declarations.
 */
export const COMMANDS: { type: string; pool: BrokerPool }[] = [
  ...[registerUserCommand, resendVerificationCommand, forgotPasswordCommand].map(({ type }) => ({
    type,
    pool: 'registration' as const,
  })),
  ...[submitKycCommand, cancelKycCommand, decideKycCommand, applyCallbackCommand].map(({ type }) => ({
    type,
    pool: 'kyc' as const,
  })),
  { type: verifyAuditCommand.type, pool: 'housekeeping' },
];
