/** The sealed audit log: what the rest of the program may use of it. */
export { type Anchor, newestAnchor } from './anchor.ts';
export type { Checkpoint } from './checkpoint.ts';
export { AuditCheckpoint, AuditEvent, AuditKey, AuditSubjectKey, AuditVerification } from './entities.ts';
export { type ExportFormat, exportRows, exportText } from './export.ts';
export { type AuditEntry, type AuditFilter, InvalidCursor, list } from './list.ts';
export { type InclusionProof, proof, verifyInclusion } from './proof.ts';
export { type AuditRecord, type AuditRecordInput, auditRecord } from './record.ts';
export type { Broken } from './row-check.ts';
export { type Appended, CHECKPOINT_SIZE, createSealer, type Placement, type Sealer } from './sealer.ts';
export { type AuditKeys, AuditSealError } from './sealing.ts';
export { resealSigningKeys } from './signing-keys.ts';
export { eraseSubject, rewrapSubjectKeys } from './subject-keys.ts';
export {
  createVerifier,
  isLargeLog,
  LARGE_LOG,
  noteVerification,
  underWay,
  type Verifier,
  verifyAuditCommand,
} from './verification.ts';
export { type Verification, type VerifyOptions, verify } from './verify.ts';
