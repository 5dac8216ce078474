import ipaddr from 'ipaddr.js';
import { sql } from 'kysely';
import type { EntityManager } from '../../services/database.ts';

export interface Client {
  ip: string | null;
  userAgent: string | null;
}

/** The network an address is in: /24 of IPv4, /48 of IPv6, which one household or office keeps while addresses change. */
export function networkOf(ip: string | null): string {
  if (ip === null || !ipaddr.isValid(ip)) return 'unknown';
  const address = ipaddr.process(ip);
  const bytes = address.toByteArray();
  return `${address.kind()} ${bytes.slice(0, address.kind() === 'ipv4' ? 3 : 6).join('.')}`;
}

/** More pairs than anyone's sessions have; the latest count. */
const LOOKED_AT = 500;

/**
 * Whether nobody signed in to the account with this program from this network before, among the sessions that are
 * kept. The first sign-in of all is not new: there is nothing it could differ from.
 */
export async function isNewDevice(em: EntityManager, userId: string, client: Client): Promise<boolean> {
  const { rows } = await sql<{ ip: string | null; user_agent: string | null }>`
    select ip, user_agent from sessions where user_id = ${userId} order by created_at desc limit ${LOOKED_AT}`.execute(
    em.getKysely(),
  );
  const known = rows.some((row) => row.user_agent === client.userAgent && networkOf(row.ip) === networkOf(client.ip));
  return rows.length > 0 && !known;
}
