import { newId } from '../../src/domain/ids.ts';
import { compare, type Sample, type Side } from '../measure.ts';
import { Peer } from '../peer.ts';
import type { Message, Platform, WaybillProcess } from '../platform.ts';
import { type Stage, type Subject, warmSeconds } from '../stage.ts';

const SUBJECTS = 200;
const SEALED = 'select coalesce(sum(size), 0) from audit_checkpoints';
const BATCH = 500;

/** Records as the platform writes them for a change of a user. */
function* records(platform: Platform, subjects: string[], count: number): Iterable<Message> {
  for (let n = 0; n < count; n += 1) {
    const id = newId();
    const user = subjects[n % subjects.length] as string;
    const time = new Date().toISOString();
    const request = newId();
    const envelope = {
      specversion: '1.0',
      id,
      source: 'waybill',
      type: 'audit.record',
      time,
      data: {
        id,
        occurred_at: time,
        action: 'user.updated',
        actor: { type: 'user', id: user },
        targets: [{ type: 'user', id: user }],
        context: { ip: '203.0.113.7', user_agent: 'waybill-bench/1', request_id: request, operation_id: request },
        metadata: { email: 'ada@example.com', role: 'user' },
        outcome: 'success',
        subject: user,
      },
      correlationid: request,
      requestid: request,
      actor: `user:${user}`,
    };
    const body = Buffer.from(JSON.stringify(envelope));
    yield { exchange: platform.topology.audit, routingKey: envelope.type, body, messageId: id, type: envelope.type };
  }
}

const SUBJECT_IDS = Array.from({ length: SUBJECTS }, () => newId());

/**
 * Puts `count` records into the broker, while the worker is held if there is one given, and resolves with the seconds
 * from there until all are sealed.
 */
export async function appendRecords(platform: Platform, count: number, worker?: WaybillProcess): Promise<number> {
  const before = await platform.count(SEALED);
  worker?.freeze();
  await platform.publish(records(platform, SUBJECT_IDS, count));
  const began = performance.now();
  worker?.thaw();
  return ((await platform.until(SEALED, before + count, 60_000, 10)) - began) / 1000;
}

function auditSide(platform: Platform, worker: WaybillProcess, seconds: number): Side {
  let pace = 5000;
  const drain = async (length: number): Promise<Sample> => {
    const count = Math.ceil((pace * length) / BATCH) * BATCH;
    const cpu = worker.cpuSeconds();
    const taken = await appendRecords(platform, count, worker);
    pace = count / taken;
    const used = (worker.cpuSeconds() - cpu).toFixed(1);
    return { count, seconds: taken, notes: [`CPU of the worker in ${taken.toFixed(1)} s: ${used} s`] };
  };
  return {
    name: 'waybill',
    async measure() {
      await drain(seconds * 0.3);
      return drain(seconds);
    },
  };
}

/** 500-row INSERTs of the rows that the worker wrote, into a table with the same columns and indexes and no triggers. */
async function bareInsertSide(platform: Platform, insert: Peer, seconds: number): Promise<Side> {
  await platform.db.query(
    'create table if not exists bench_audit (like audit_events including defaults including constraints including indexes)',
  );
  const { rows } = await platform.db.query<{ row: Record<string, unknown> }>(
    `select to_jsonb(e) || jsonb_build_object('leaf', e.leaf::text) as row from audit_events e limit ${BATCH}`,
  );
  if (rows.length < BATCH) throw new Error(`the audit log has only ${rows.length} rows to take as a pattern`);
  return {
    name: 'bare',
    measure: async () => {
      await platform.db.query('truncate bench_audit');
      return insert.ask<Sample>('run', {
        databaseUrl: platform.urls.databaseUrl,
        table: 'bench_audit',
        sample: rows.map(({ row }) => row),
        warmSeconds: warmSeconds(seconds),
        seconds,
      });
    },
  };
}

async function subject(platform: Platform, seconds: number): Promise<Subject> {
  const worker = await platform.start(['worker', 'audit']);
  return { ...auditSide(platform, worker, seconds), close: () => platform.stopAll() };
}

export const audit: Stage = {
  name: 'audit',
  unit: 'rows/s',
  subject,
  async run({ platform, seconds, runs, report }) {
    const waybill = await subject(platform, seconds);
    const insert = new Peer('baselines/insert.ts');
    try {
      await waybill.measure(); // rows to take as a pattern
      return await compare([waybill, await bareInsertSide(platform, insert, seconds)], runs, report, {
        stage: audit,
        goals: { bare: 0.3 },
        notes: [`${SUBJECTS} subjects; the log grows from run to run, the bare table is empty before each`],
      });
    } finally {
      await Promise.all([waybill.close(), insert.stop()]);
    }
  },
};
