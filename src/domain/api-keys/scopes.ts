/** What an API key may be allowed to do. */
export const SCOPES = [
  'events:write',
  'events:read',
  'webhooks:write',
  'webhooks:read',
  'users:read',
  'ops:read',
  'ops:write',
  'audit:read',
] as const;

export type Scope = (typeof SCOPES)[number];

/** A machine client, as its key says. */
export interface MachineClient {
  keyId: string;
  tenant: string;
  scopes: readonly Scope[];
}
